"""The first number of rows at once: the formula against a model's tensors, and free memory."""

import pytest
import torch
import transformers as hf
from live_memory import ATTENTION, CONFIGS, LiveBytes
from small_models import likelihoods, made, token_ids

from talr_cli.evaluation import memory
from talr_cli.evaluation.continuations import Choices
from talr_cli.evaluation.reading import read_texts
from talr_cli.models.shape import shape_from_config

ROWS, TOKENS = 3, 40


@pytest.mark.parametrize(
    ("kind", "exact"),
    [("llama", True), ("qwen3", True), ("qwen3_moe", True), ("gemma3", False)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_has_the_size_of_the_formula(kind, exact, dtype):
    model = made(kind, dtype)
    shape = memory.shape_of_model(model)
    texts = token_ids(ROWS, TOKENS).tolist()
    layers = read_texts(model, texts).cache.layers
    held = sum(one.numel() * one.element_size() for la in layers for one in (la.keys, la.values))
    said = ROWS * memory.cache_bytes(shape, TOKENS, dtype.itemsize)
    # A layer with a sliding window need not keep all.
    assert held == said if exact else held <= said


def test_a_row_takes_more_than_its_cache_and_the_tensors_of_a_layer():
    model = made("llama")
    shape = memory.shape_of_model(model)
    alone = memory.cache_bytes(shape, 1000, 4)
    assert alone == 1000 * 2 * 2 * 16 * 4  # layers, keys and values, width, bytes
    assert memory.row_bytes(shape, 1000, 4) > alone + 3 * 32 * 4 * 1000
    pairs = memory.row_bytes(shape, 1000, 4, eager=True) - memory.row_bytes(shape, 1000, 4)
    assert pairs == 4 * 7 * 4 * 1000**2


# Not the large ones: room is made for logits, of which they have many, and reading takes none.
@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {"vocabulary", "capped"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_rows_stays_within_the_estimate(kind, dtype):
    """Too many at once would end the process on a CPU; a third too few are no loss."""
    torch.manual_seed(0)
    settings = CONFIGS[kind]()
    settings._attn_implementation = ATTENTION.get(kind, "sdpa")
    model = hf.AutoModelForCausalLM.from_config(settings).to(dtype).eval()
    texts = [ids.tolist() for ids in token_ids(ROWS, 512)]
    with LiveBytes() as live, torch.inference_mode():
        read_texts(model, [texts[0][:400], *texts[1:]])  # so that rows are padded
    eager = model.config._attn_implementation == "eager"
    said = ROWS * memory.row_bytes(memory.shape_of_model(model), 512, dtype.itemsize, eager)
    assert 0.9 * live.most < said < 1.6 * live.most


@pytest.mark.parametrize("choices", [1, 4])  # read each alone, or after one prompt
def test_long_choices_stay_within_the_free_memory(choices, monkeypatch):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    drawn = token_ids(16, 128).tolist()
    questions = [
        Choices(drawn[row], [drawn[(row + other) % 16] for other in range(choices)])
        for row in range(16 // choices)
    ]
    free = 8 * memory.row_bytes(memory.shape_of_model(model), 256, 4)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    with LiveBytes() as live:
        likelihoods(model, questions)
    assert free / 8 < live.most < free


def qwen_3b():
    """Its shape, with weights that are only said to be there."""
    settings = {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
    }  # fmt: skip
    return shape_from_config(settings, {"w": ((3_085_938_688,), 2)})


@pytest.mark.parametrize(
    ("free_gib", "tokens", "rows"),
    [(70, 1500, 256), (14, 1500, 64), (9, 1500, 32), (16, 4000, 16), (0.001, 1500, 1)],
)
def test_rows_at_once_follow_free_memory(free_gib, tokens, rows, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: free_gib * 2**30)
    monkeypatch.setattr(memory, "shape_of_model", lambda model: qwen_3b())
    model = made("llama")
    model.config.max_position_embeddings = 10_000
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(type(model), "dtype", torch.bfloat16)
    found = memory.BatchSize.of("auto", model, tokens).current
    taken = memory.row_bytes(qwen_3b(), tokens, 2) / 2**30
    assert found == rows
    assert found == 1 or found * taken <= free_gib
    assert memory.BatchSize.of(7, model, tokens).current == 7


def test_a_cpu_takes_at_most_32_rows_at_once(monkeypatch):
    assert memory.BatchSize.of("auto", made("llama"), 100).current == 32
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**20)
    assert memory.BatchSize.of("auto", made("llama"), 200).current < 32
