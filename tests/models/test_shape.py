"""The kinds of layers that a config names, or does not: what is not known has no shape."""

import pytest
import transformers as hf
from small_models import CONFIGS, LAYERS, SIZE

from talr_cli.models.shape import head_sizes, shape_from_config

PLAIN = {"num_hidden_layers": 12, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
TENSORS = {"model.layers.0.self_attn.q_proj.weight": ((64, 64), 2)}
LINEAR = {
    "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_num_value_heads": 4, "linear_value_head_dim": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "windowed", "linear"),
    [
        ({}, 0, 0),
        ({"sliding_window": 8}, 12, 0),  # Mistral
        ({"sliding_window": 8, "use_sliding_window": False}, 0, 0),  # Qwen2.5
        ({"sliding_window": 8, "sliding_window_pattern": 6}, 10, 0),  # Gemma 3, as published
        ({"sliding_window": 8, "layer_types": ["full_attention"] * 12}, 0, 0),
        ({"sliding_window": 8, "layer_types": ["sliding_attention"] * 12}, 12, 0),
        (LINEAR, 0, 9),  # Qwen3-Next
        ({**LINEAR, "layer_types": ["linear_attention", "full_attention"] * 6}, 0, 6),
        # Granite 4 without a layer of Mamba's says how these would be.
        ({"mamba_n_heads": 8, "layer_types": ["attention"] * 12}, 0, 0),
    ],
)
def test_layer_kinds_are_read_from_the_config(more, windowed, linear):
    found = shape_from_config({**PLAIN, **more}, TENSORS)
    assert found.windowed == windowed
    assert found.attending == 12 - linear
    assert (found.linear.keys, found.linear.values) == (32, 64) if linear else not found.linear


@pytest.mark.parametrize(
    "more",
    [
        {"mamba_d_ssm": 8},  # Falcon-H1
        {"mamba_n_heads": 8, "layer_types": ["mamba", "attention"] * 6},
        {"hybrid_override_pattern": "M-M*"},  # Nemotron-H
        {"layer_types": ["linear_attention", "full_attention"] * 6},  # MiniMax, of its own kind
        {"layer_types": ["full_attention", "something_new"] * 6},
        {"num_attention_heads": None},  # Mamba
        {"num_attention_heads": None, "num_heads": 4, "state_size": 16},  # Mamba 2
        {"num_attention_heads": None, "num_heads": 4, "chunkwise_kernel": "native"},  # xLSTM
    ],
)
def test_a_model_of_unknown_layers_has_no_shape(more):
    assert shape_from_config({**PLAIN, **more}, TENSORS) is None


def test_experts_and_shared_experts_are_counted():
    matrices = {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight": (ends, 2)
        for layer in range(12)
        for expert in range(4)
        for name, ends in {
            "gate_proj": (16, 64),
            "up_proj": (16, 64),
            "down_proj": (64, 16),
        }.items()
    }
    settings = {**PLAIN, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    found = shape_from_config(settings, {**TENSORS, **matrices})
    assert (found.inner, found.experts.layers, found.experts.listed) == (32, 12, True)
    assert found.experts.weights == 12 * 4 * 3 * 16 * 64
    # As Qwen2-MoE, DeepSeek-V3 and Granite name them.
    for name in ("shared_expert.down_proj", "shared_experts.down_proj", "shared_mlp.output_linear"):
        shared = {f"model.layers.{layer}.mlp.{name}.weight": ((64, 24), 2) for layer in (3, 4)}
        found_too = shape_from_config(settings, {**TENSORS, **matrices, **shared})
        assert found_too.inner == 2 * 16 + 24
    counts = {one.name: one.count for one in found.matrices}
    assert counts == {"q_proj": 1} | dict.fromkeys(
        (f"experts.{name}_proj" for name in ("gate", "up", "down")), 48
    )


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (CONFIGS["qwen3"](), [(4, 2, 8)] * 2),
        (CONFIGS["gpt2"](), [(4, 4, 8)] * 2),
        (CONFIGS["mamba"](), []),
        (
            hf.Gemma4TextConfig(
                **SIZE, head_dim=8, global_head_dim=16, num_global_key_value_heads=1,
                attention_k_eq_v=True, layer_types=LAYERS,
            ),
            [(4, 2, 8), (4, 1, 16)],
        ),
    ],
)  # fmt: skip
def test_the_sizes_of_heads_are_those_of_each_layer(config, sizes):
    assert head_sizes(config) == sizes
