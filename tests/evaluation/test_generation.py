"""Greedy answers in batches against a plain call of generate for each row alone."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.data.base import Example
from talr_cli.evaluation import generation
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models import loading

NEW_TOKENS = 12


@pytest.fixture
def model(tiny_source, tiny_config):
    """With weights so large that its answers differ; as it is made, it repeats one token."""
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.5, generator=draw)
    return model


def questions():
    counts = [3, 90, 1, 40, 41, 2, 200, 7]
    return [
        Example(f"q{n}", ({"role": "user", "content": f"Number {n}? " + "Well. " * n},), "Yes.")
        for n in counts
    ]


def alone(model, renderer, example, stops=()):
    """The answer's token ids, by transformers' generate on one row without padding."""
    prompt = torch.tensor([renderer.prompt_ids(example.messages)])
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=[renderer.end_of_turn, *stops],
        pad_token_id=renderer.tokenizer.pad_token_id,
    )[0, prompt.shape[1] :].tolist()
    return next((ids[:i] for i, token in enumerate(ids) if token in stops), ids)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("most_tokens", [1, 300, 10**9])
def test_answers_do_not_depend_on_the_batch(model, renderer, monkeypatch, batch_size, most_tokens):
    monkeypatch.setattr(generation, "_cached_tokens", lambda model: most_tokens)
    examples = questions()
    # Some rows end early: by a token that a row of the middle says.
    stop = alone(model, renderer, examples[3])[4]
    model.generation_config.eos_token_id = stop
    expected = [
        renderer.tokenizer.decode(
            alone(model, renderer, example, (stop,)), skip_special_tokens=True
        )
        for example in examples
    ]
    answers = generation.generate(model, renderer, examples, NEW_TOKENS, BatchSize(batch_size))
    found = [answer.text for answer in answers]
    assert found == expected
    assert len(set(found)) > 4


@given(st.lists(st.integers(1, 50)), st.integers(min_value=1, max_value=6), st.integers(1, 200))
def test_batches_hold_every_row_once_and_keep_to_both_limits(lengths, most_rows, most_tokens):
    batches = generation._batches(lengths, most_rows, most_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[index] for index in batch)
        assert len(batch) <= most_rows
        assert len(batch) == 1 or len(batch) * width <= most_tokens
    # Nothing that fits is put off: the next row would break a limit.
    for batch, following in itertools.pairwise(batches):
        width = max(lengths[index] for index in batch)
        assert len(batch) == most_rows or (len(batch) + 1) * width > most_tokens
        assert max(lengths[i] for i in following) <= min(lengths[i] for i in batch)


def test_the_cache_of_a_full_batch_is_as_large_as_the_weights(model):
    tokens = generation._cached_tokens(model)
    cache = model(torch.zeros(1, 7, dtype=torch.long), use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert tokens * numbers // 7 <= weights < (tokens + 1) * numbers // 7
