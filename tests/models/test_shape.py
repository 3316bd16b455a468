"""The kinds of layers that a config names, or does not: what is not known has no shape."""

import pytest
import transformers as hf
from small_models import CONFIGS, LAYERS, SIZE

from talr_cli.models.shape import _is_loaded_whole, head_sizes, shape_from_config, shape_of
from talr_cli.models.sources import ModelSource

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
    ("name", "size"),
    [
        ("mlp.experts.gate_up_proj", (4, 64, 64)),  # how many a token uses is not said
        ("mlp.input_linear.weight", (4, 64, 64)),  # JetMoe
    ],
)
def test_experts_that_are_not_understood_have_no_shape(name, size):
    stack = {f"model.layers.0.{name}": (size, 2)}
    assert shape_from_config(PLAIN, {**TENSORS, **stack}) is None


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


GEMMA4 = hf.Gemma4TextConfig(
    **{**SIZE, "num_hidden_layers": 6}, head_dim=8, global_head_dim=32, attention_k_eq_v=True,
    num_global_key_value_heads=1, num_kv_shared_layers=2, layer_types=LAYERS * 3,
    vocab_size_per_layer_input=60,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "queries", "keys", "of_experts"),
    [
        # Three layers of 4 heads of 8 and three of 32; two of each have keys, of 2 x 8 and 1 x 32.
        (GEMMA4, (3 * 4 * 8 + 3 * 4 * 32) / 6, (2 * 2 * 8 + 2 * 32) / 6, 0),
        # Of 4 experts in 2 layers, 2 matrices in and one out.
        (CONFIGS["granitemoe"](), 32, 16, 2 * 4 * 3 * 32 * 32),
        (hf.GPTNeoXConfig(**{**SIZE, "num_key_value_heads": 4}), 32, 32, 0),
        (hf.MistralConfig(**SIZE, tie_word_embeddings=True), 32, 16, 0),
    ],
)
def test_the_shape_is_that_of_the_models_own_modules(config, queries, keys, of_experts, tmp_path):
    model = hf.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    found = shape_of(ModelSource(tmp_path, "", "random"))
    assert (found.queries, found.keys) == (queries, keys)
    # Gemma 4 stores a scalar of each layer, which is no parameter.
    assert 0 <= found.weights - model.num_parameters() <= found.layers
    assert found.tied == config.tie_word_embeddings
    assert (found.experts.weights if found.experts else 0) == of_experts


@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({"model_type": "gemma3", "text_config": {}}, True),
        ({"model_type": "qwen3_5", "text_config": {}}, False),  # its class for text takes its part
        ({"model_type": "phi4_multimodal"}, True),  # its only class has both towers
    ],
)
def test_towers_count_where_the_class_that_is_loaded_has_them(settings, whole):
    assert _is_loaded_whole(settings, None) == whole
