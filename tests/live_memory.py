"""What tensors hold while something is computed, and models large enough to tell what holds it."""

import weakref

import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

SIZE = {
    "vocab_size": 8192,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
WINDOWED = ["sliding_attention"] * 5 + ["full_attention"]
ATTENTION = {"gpt_oss": "eager"}
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**SIZE),
    "vocabulary": lambda: hf.LlamaConfig(
        **{**SIZE, "vocab_size": 262144, "hidden_size": 48, "num_hidden_layers": 2}
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **SIZE, head_dim=32, sliding_window=16, layer_types=WINDOWED
    ),
    "gemma4": lambda: hf.Gemma4TextConfig(
        **SIZE, head_dim=32, global_head_dim=64, num_global_key_value_heads=2,
        attention_k_eq_v=True, hidden_size_per_layer_input=0, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 3,
    ),
    "capped": lambda: hf.Gemma3TextConfig(
        **{**SIZE, "vocab_size": 262144, "hidden_size": 48, "num_hidden_layers": 2},
        head_dim=8, final_logit_softcapping=30.0, layer_types=["full_attention"] * 2,
    ),
    "qwen3_5": lambda: hf.Qwen3_5TextConfig(
        **SIZE, head_dim=32, layer_types=[*["linear_attention"] * 2, "full_attention"] * 2,
        linear_key_head_dim=128, linear_value_head_dim=128,
        linear_num_key_heads=2, linear_num_value_heads=2,
    ),
    "gpt_oss": lambda: hf.GptOssConfig(
        **{**SIZE, "tie_word_embeddings": False},
        head_dim=32, sliding_window=16, layer_types=WINDOWED,
        num_local_experts=8, num_experts_per_tok=4, attn_implementation="eager",
    ),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **SIZE, head_dim=32, num_experts=8, num_experts_per_tok=4, moe_intermediate_size=256
    ),
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Adds up the storages of all tensors that are alive, and remembers the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def count(self, value):
        if not isinstance(value, torch.Tensor):
            return
        if value.layout == torch.sparse_coo:
            self.count(value._indices())
            self.count(value._values())
            return
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, key, size)

    def forget(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for value in tree_iter(made):
            self.count(value)
        return made
