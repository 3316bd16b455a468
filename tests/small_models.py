"""Random models of two layers, of kinds that differ in their buffers and heads."""

from types import SimpleNamespace

import torch
import transformers as hf

from talr_cli.data.base import Example
from talr_cli.data.rendering import Rendered
from talr_cli.evaluation.choosing import choice_likelihoods
from talr_cli.evaluation.memory import BatchSize

SIZE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYERS = ["sliding_attention", "full_attention"]
WINDOW = {"sliding_window": 8, "layer_types": LAYERS}
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16
}  # fmt: skip
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**SIZE),
    "qwen3": lambda: hf.Qwen3Config(**SIZE, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(
        **SIZE, head_dim=8, **WINDOW, attn_implementation="eager", final_logit_softcapping=2.0
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(**SIZE, head_dim=8, **WINDOW),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZE),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=256, pad_token_id=0
    ),
    "phi": lambda: hf.PhiConfig(**SIZE),
    "granite": lambda: hf.GraniteConfig(
        **SIZE, logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.2
    ),
    "cohere": lambda: hf.CohereConfig(**SIZE, logit_scale=0.25),
    "lfm2": lambda: hf.Lfm2Config(**SIZE, layer_types=["conv", "full_attention"]),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**SIZE, head_dim=8, **EXPERTS),
    "granitemoe": lambda: hf.GraniteMoeConfig(**SIZE, **EXPERTS),
    "gpt_oss": lambda: hf.GptOssConfig(
        **SIZE, head_dim=8, **WINDOW, **EXPERTS, attn_implementation="eager"
    ),
    "phimoe": lambda: hf.PhimoeConfig(**SIZE, **EXPERTS, sliding_window=8),
    "llama4": lambda: hf.Llama4TextConfig(
        **SIZE, **EXPERTS, head_dim=8, intermediate_size_mlp=32, layer_types=["full_attention"] * 2
    ),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        **SIZE, lru_width=32, attention_window_size=8, logits_soft_cap=2.0,
        block_types=["recurrent", "attention"],
    ),
    "laguna": lambda: hf.LagunaConfig(
        **SIZE, **EXPERTS, head_dim=8, layer_types=["full_attention"] * 2,
        mlp_layer_types=["dense", "sparse"], num_attention_heads_per_layer=[4, 4],
        shared_expert_intermediate_size=16,
    ),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=60, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0
    ),
    "zamba": lambda: hf.ZambaConfig(
        **{**SIZE, "num_hidden_layers": 3, "num_key_value_heads": 4},
        layers_block_type=["linear_attention", "hybrid", "hybrid"],
        attention_hidden_size=64, attention_head_dim=16, use_mamba_kernels=False,
    ),
    "youtu": lambda: hf.YoutuConfig(
        **{**SIZE, "pad_token_id": None, "num_key_value_heads": 4},
        kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    ),
    "xglm": lambda: hf.XGLMConfig(
        vocab_size=60, d_model=32, ffn_dim=32, num_layers=2, attention_heads=4, pad_token_id=0,
        max_position_embeddings=256,
    ),
    "moshi": lambda: hf.MoshiConfig(**SIZE, ffn_dim=32, head_dim=8, sliding_window=8),
    "neox_japanese": lambda: hf.GPTNeoXJapaneseConfig(**SIZE),
    "reformer": lambda: hf.ReformerConfig(
        vocab_size=60, hidden_size=32, feed_forward_size=32, num_attention_heads=4,
        attention_head_size=8, attn_layers=["local", "lsh"], is_decoder=True,
        axial_pos_shape=[16, 16], axial_pos_embds_dim=[16, 16], max_position_embeddings=256,
    ),
    "rwkv": lambda: hf.RwkvConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2),
    "modernbert": lambda: hf.ModernBertDecoderConfig(**SIZE, local_attention=8),
    "bert": lambda: hf.BertLMHeadModel.config_class(**SIZE),
    "rembert": lambda: hf.RemBertConfig(
        **SIZE, is_decoder=True, input_embedding_size=16, output_embedding_size=48
    ),
    "trocr": lambda: hf.TrOCRConfig(
        vocab_size=60, d_model=32, decoder_ffn_dim=32, decoder_layers=2, decoder_attention_heads=4,
        max_position_embeddings=256,
    ),
    "mamba2": lambda: hf.Mamba2Config(
        vocab_size=60, hidden_size=32, num_heads=8, head_dim=8, state_size=8, num_hidden_layers=2,
        n_groups=2, chunk_size=32, pad_token_id=0,
    ),
    "falcon": lambda: hf.FalconConfig(**SIZE),
}  # fmt: skip


def made(name, dtype=torch.float32, window=None):
    """A model with random weights, large enough to tell rounded from exact."""
    torch.manual_seed(0)
    settings = CONFIGS[name]()
    for value in ("sliding_window", "attention_window_size"):
        if window is not None and hasattr(settings, value):
            setattr(settings, value, window)
    model = hf.AutoModelForCausalLM.from_config(settings).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def token_ids(rows=2, length=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 60, (rows, length), generator=generator)


def likelihoods(model, questions):
    """The log-probability of each continuation, as of the choices of a domain's rows."""

    def encode(row):
        question = questions[int(row.id)]
        tokens = question.continuations[int(row.completion)]
        return Rendered([*question.text, *tokens], [-100 for _ in question.text] + [*tokens])

    rows = [
        (Example(str(row), (), ""), {str(n): str(n) for n in range(len(one.continuations))})
        for row, one in enumerate(questions)
    ]
    renderer = SimpleNamespace(encode=encode, tokenizer=SimpleNamespace(pad_token_id=0))
    return [one.values() for one in choice_likelihoods(model, renderer, rows, BatchSize(8))]


class ScaledHead(torch.nn.Linear):
    """A head with a factor for each token, as Dory's, of the weights of a plain one."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.weight = plain.weight

    def forward(self, hidden):
        return super().forward(hidden) * torch.linspace(0.5, 2, self.out_features)
