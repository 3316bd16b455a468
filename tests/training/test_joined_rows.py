"""Rows joined into one sequence come out as each does alone, whatever the model's attention."""

import pytest
import small_models
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)
from varlen_kernel import kernel

from talr_cli.errors import UserError
from talr_cli.training import joined_rows, varlen
from talr_cli.training.collator import Collator
from talr_cli.training.joined_rows import attend_by_row, restore_attention, should_join_rows

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WINDOW = 6  # shorter than the longest row
LAYERS = ["sliding_attention", "full_attention"]
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=WINDOW)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZE, use_sliding_window=True, sliding_window=WINDOW, layer_types=LAYERS)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZE, sliding_window=WINDOW, layer_types=LAYERS)
    ),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def ragged():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 50, (n,), generator=generator).tolist() for n in (5, 1, 17, 9)]
    return [{"input_ids": row, "labels": row} for row in rows]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("by", ["row by row", "all rows at once"])
@pytest.mark.parametrize("name", MODELS)
def test_joined_rows_attend_to_themselves_alone(name, by, monkeypatch):
    if by == "all rows at once":  # as on a GPU, by a kernel of the same signature
        monkeypatch.setattr(varlen, "can_attend", lambda *args: True)
        monkeypatch.setattr(varlen, "find_kernel", lambda: kernel)
    rows = ragged()
    alone = made(name)
    expected = [
        alone.base_model(torch.tensor([row["input_ids"]])).last_hidden_state[0] for row in rows
    ]
    torch.cat(expected).square().sum().backward()
    joined = attend_by_row(made(name))
    batch = Collator(pad_token_id=0, padding_free=True)(rows)
    batch.pop("labels")
    hidden = joined.base_model(**batch, use_cache=False).last_hidden_state[0]
    hidden.square().sum().backward()
    torch.testing.assert_close(hidden, torch.cat(expected), rtol=1e-5, atol=1e-5)
    theirs = gradients(alone)
    for parameter, ours in gradients(joined).items():
        torch.testing.assert_close(ours, theirs[parameter], rtol=1e-4, atol=1e-3)


def test_restore_attention_gives_back_the_original_logits():
    model = made("llama")
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    before = model(tokens, attention_mask=mask).logits
    restore_attention(attend_by_row(model))
    assert torch.equal(model(tokens, attention_mask=mask).logits, before)


def test_a_cpu_joins_rows_unless_one_at_a_time_or_switched_off():
    model = made("llama")
    assert should_join_rows(None, model, "cpu", 4)
    assert not should_join_rows(None, model, "cpu", 1)
    assert not should_join_rows(False, model, "cpu", 4)


@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_a_gpu_joins_rows_where_it_has_a_kernel(rows_at_once, monkeypatch):
    model = made("llama")
    half = torch.bfloat16
    monkeypatch.setattr(joined_rows, "_has_kernel", lambda *args: False)
    assert not should_join_rows(None, model, "cuda", rows_at_once, half)
    assert should_join_rows(True, model, "cuda", rows_at_once, half)
    monkeypatch.setattr(joined_rows, "_has_kernel", lambda *args: True)
    assert should_join_rows(None, model, "cuda", rows_at_once, half)
    assert not should_join_rows(None, model, "cuda", rows_at_once, None)
    assert not should_join_rows(None, small_models.made("lfm2"), "cuda", rows_at_once, half)
    model.set_attn_implementation("eager")
    assert not should_join_rows(None, model, "cuda", rows_at_once, half)


@pytest.mark.parametrize(
    ("kind", "apart"),
    [
        ("llama", True),
        ("gemma3", True),
        ("qwen3_moe", True),
        ("granitemoe", True),
        ("lfm2", False),
        ("phimoe", False),  # its sliding window is in its masks only
    ],
)
def test_rows_are_joined_only_by_models_that_keep_them_apart(kind, apart):
    model = small_models.made(kind)
    model.train()
    assert should_join_rows(None, model, "cpu", 4) == apart
    assert model.training
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("strength", [1.0, 1e-3])
def test_a_model_that_mixes_neighbouring_tokens_is_not_joined(strength):
    """Which takes joined rows without a word, and where the weights carry next to nothing."""
    model = made("llama")
    layer = model.model.layers[0].mlp

    def mix(_module, _arguments, output):
        shifted = torch.nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]
        return output + strength * shifted

    layer.register_forward_hook(mix)
    assert not should_join_rows(None, model, "cpu", 4)


def test_a_model_that_counts_places_on_from_row_to_row_is_not_joined():
    """What the row before holds is no matter to it, only how long it is."""
    model = made("llama")

    def place(_module, _arguments, output):
        return output + 0.1 * torch.arange(output.shape[1])[:, None]

    model.model.layers[0].mlp.register_forward_hook(place)
    assert not should_join_rows(None, model, "cpu", 4)


def test_other_attention_and_recurrent_layers_are_padded_or_refused():
    eager = made("llama")
    eager.set_attn_implementation("eager")
    state = Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **SIZE,
            layer_types=["linear_attention", "full_attention"],
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    )
    for model in (eager, state):
        assert not should_join_rows(None, model, "cpu", 4)
        with pytest.raises(UserError, match="padding_free=true is for"):
            should_join_rows(True, model, "cpu", 4)
