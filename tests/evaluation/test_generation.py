"""Greedy answers in batches against a plain call of generate for each row alone."""

import itertools
from dataclasses import replace

import pytest
import small_models
import torch
from conftest import config
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from talr_cli.data.base import Example
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.evaluation import generation
from talr_cli.evaluation.choosing import _read_separately
from talr_cli.evaluation.config import DomainEvalConfig
from talr_cli.evaluation.continuations import Choices
from talr_cli.evaluation.decoding import Request, Together, rows_together
from talr_cli.evaluation.domain import answer_budget, evaluate_domain
from talr_cli.evaluation.general.suite import evaluate_general
from talr_cli.evaluation.generation import generate_batch
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.reading import cache_name, ignores_padding
from talr_cli.evaluation.self_score import check_prompts
from talr_cli.models import loading
from talr_cli.models.row_batches import make_batches
from talr_cli.scorers.text import ExactMatch

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


def generated_alone(model, renderer, example, stops=()):
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
    monkeypatch.setattr(generation, "_most_cached_tokens", lambda model: most_tokens)
    examples = questions()
    # Some rows end early: by a token that a row of the middle says.
    stop = generated_alone(model, renderer, examples[3])[4]
    model.generation_config.eos_token_id = stop
    expected = [
        renderer.tokenizer.decode(
            generated_alone(model, renderer, example, (stop,)), skip_special_tokens=True
        )
        for example in examples
    ]
    answers = generation.generate(model, renderer, examples, NEW_TOKENS, BatchSize(batch_size))
    found = [answer.text for answer in answers]
    assert found == expected
    assert len(set(found)) > 4


@given(st.lists(st.integers(1, 50)), st.integers(min_value=1, max_value=6), st.integers(1, 200))
def test_batches_hold_every_row_once_and_keep_to_both_limits(lengths, most_rows, most_tokens):
    batches = make_batches(lengths, most_rows, most_tokens)
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
    tokens = generation._most_cached_tokens(model)
    output = model(torch.zeros(1, 7, dtype=torch.long), use_cache=True)
    cache = output[cache_name(output)]
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert tokens * numbers // 7 <= weights < (tokens + 1) * numbers // 7


WISHES = {
    "num_beams": 3,
    "do_sample": True,
    "temperature": 3.0,
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 1,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 2,
    "min_new_tokens": 11,
    "max_length": 3,
    "max_time": 1e-9,
    "stop_strings": ["e", "a"],
    "bad_words_ids": [[11], [12]],
    "exponential_decay_length_penalty": [1, 2.0],
    "watermarking_config": {"bias": 9.0},
    "use_cache": False,
}


def test_settings_of_a_generation_config_change_no_answer(model, renderer, caplog):
    examples = questions()
    suite = config("eval", "suite.tasks=[mini_instructions]", "suite.limit=6").suite
    stop = generated_alone(model, renderer, examples[3])[4]
    model.generation_config.eos_token_id = stop

    def answers():
        size = BatchSize(3)
        domain = generation.generate(model, renderer, examples, NEW_TOKENS, size)
        return domain, evaluate_general(model, renderer, suite).samples

    expected = answers()
    own = model.generation_config
    first = {
        token
        for example in examples
        for token in generated_alone(model, renderer, example, (stop,))
    }
    banned = {"suppress_tokens": list(first), "begin_suppress_tokens": list(first)}
    biased = {"sequence_bias": [[[token], -50.0] for token in first]}
    asked = GenerationConfig(**WISHES, **banned, **biased, eos_token_id=stop)
    model.generation_config = asked
    assert answers() == expected
    assert model.generation_config is asked
    said = generation.ignored_settings(model)
    for name in {*WISHES, *banned, *biased} - {"do_sample", "use_cache"}:
        assert f"{name}=" in said
    model.generation_config = own
    assert generation.ignored_settings(model) == ""


def test_an_answer_is_cut_where_the_budget_ends_before_it(model, renderer):
    examples = questions()
    ids = generated_alone(model, renderer, examples[3])
    model.generation_config.eos_token_id = ids[4]
    for budget, cut in ((4, True), (5, False)):
        (answer,) = generation.generate(model, renderer, examples[3:4], budget, BatchSize(1))
        assert answer.cut is cut
        assert answer.text == renderer.tokenizer.decode(ids[:4], skip_special_tokens=True)


def test_a_row_that_has_ended_leaves_the_batch():
    model, read = small_models.made("llama"), []
    assert rows_together(model, 10) is Together.ANY
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    rows = [Request((5 + n, 6, 7), budget) for n, budget in enumerate((1, 5, 3, 4))]
    found = generate_batch(model, rows, ends=())
    assert read == [4, 3, 3, 2, 1]
    assert found == [generate_batch(model, [row], ends=())[0] for row in rows]


@pytest.mark.parametrize(
    ("kind", "together"),
    [
        ("llama", Together.ANY),
        ("recurrent_gemma", Together.SAME_LENGTH),  # it counts the padding on the left
        ("rwkv", Together.ALONE),  # its state mixes the rows of a batch
        ("moshi", Together.UNCACHED),  # its cache forgets what it wrote
    ],
)
def test_rows_of_other_lengths_change_no_answer(kind, together):
    model, lengths = small_models.made(kind), (20, 7, 12, 7)
    ids = small_models.token_ids(rows=4, length=20).tolist()
    rows = [Request(tuple(row[:length]), 6) for row, length in zip(ids, lengths, strict=True)]
    assert rows_together(model, 30) is together
    assert ignores_padding(model) == (kind == "llama")
    for row, (answer, cut) in zip(rows, generate_batch(model, rows, ends=()), strict=True):
        tokens = list(row.prompt)
        for _ in range(6):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
        assert (answer, cut) == (tokens[len(row.prompt) :], True)


@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma", "llama"])
def test_rows_of_other_lengths_change_no_likelihood(kind):
    model, ids = small_models.made(kind), small_models.token_ids(rows=3, length=20).tolist()
    answers = [
        [
            Rendered(row[:length], [-100] * (length - 2 - more) + row[length - 2 - more : length])
            for more in (0, 1)
        ]
        for row, length in zip(ids, (20, 9, 14), strict=True)
    ]
    found = _read_separately(model, answers, 0, BatchSize(4))
    for own, totals in zip(answers, found, strict=True):
        for one, total in zip(own, totals, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([one.input_ids]), use_cache=False).logits[0]
            log_probs = logits.log_softmax(-1)
            targets = range(len(one.input_ids) - len(one.targets), len(one.input_ids))
            expected = sum(float(log_probs[at - 1, one.input_ids[at]]) for at in targets)
            assert total == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "padded"),
    [("moshi", 40), ("gemma3", 200), ("trocr", 0), ("recurrent_gemma", 0), ("mamba2", 200)],
)
def test_a_window_is_tried_out_before_rows_exceed_it(kind, padded):
    """Moshi's cache is right within its window; TrOCR gives more logits than it is asked for."""
    model = small_models.made(kind, window=40)
    ids = small_models.token_ids(rows=3, length=90).tolist()
    for lengths in ((20, 9, 14), (90, 60, 9)):
        questions = [
            Choices(row[: size - 3], [row[size - 3 : size], row[1:2]])
            for row, size in zip(ids, lengths, strict=True)
        ]
        found = small_models.likelihoods(model, questions)
        for question, totals in zip(questions, found, strict=True):
            for tokens, total in zip(question.continuations, totals, strict=True):
                with torch.no_grad():
                    logits = model(torch.tensor([[*question.text, *tokens]])).logits[0]
                own = logits.log_softmax(-1)[len(question.text) - 1 : -1]
                expected = own.gather(1, torch.tensor(tokens)[:, None]).sum()
                assert total == pytest.approx(float(expected), rel=1e-4)
        assert ignores_padding(model, max(lengths)) == (max(lengths) <= padded)


def test_a_recurrent_model_keeps_ended_rows_in_the_batch(renderer):
    """Recurrent layers: no row leaves the batch, and those that have ended grow no more."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    model = MambaForCausalLM(
        MambaConfig(vocab_size=len(renderer.tokenizer), initializer_range=0.5, **shape)
    ).eval()
    examples = questions()[:4]
    size = BatchSize(4)
    first = generation.generate(model, renderer, examples, NEW_TOKENS, size)
    model.generation_config.eos_token_id = renderer.tokenizer(first[1].text).input_ids[3]
    ended = generation.generate(model, renderer, examples, NEW_TOKENS, size)
    assert not ended[1].cut
    for answer, before in zip(ended, first, strict=True):
        assert before.text.startswith(answer.text)


@pytest.mark.parametrize(("longest", "budget"), [(3, 128), (90, 180), (800, 1024), (1500, 1500)])
def test_the_default_budget_is_twice_the_longest_reference_within_limits(longest, budget):
    class Words:
        def encode(self, example):
            return Rendered([], [1] * len(example.completion.split()))

    examples = [Example("a", (), "word " * longest), Example("b", (), "word")]
    assert answer_budget(examples, Words()) == budget


def test_a_budget_is_cut_to_what_a_prompt_leaves_of_the_positions(renderer, caplog):
    """Of a model with absolute positions, which has no number for one more."""
    torch.manual_seed(0)
    examples = [replace(one, reference={"answer": "Yes."}) for one in questions()]
    lengths = [len(renderer.prompt_ids(example.messages)) for example in examples]
    most = max(lengths) + 4
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(renderer.tokenizer), n_positions=most, **shape)
    ).eval()
    model.generation_config.eos_token_id = None
    score = evaluate_domain(model, renderer, examples, ExactMatch(), NEW_TOKENS, 3)
    for example, sample in zip(examples, score.samples, strict=True):
        prompt = torch.tensor([renderer.prompt_ids(example.messages)])
        room = min(NEW_TOKENS, most - prompt.shape[1])
        ids = model.generate(prompt, max_new_tokens=room, do_sample=False, pad_token_id=0)
        expected = renderer.tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
        assert sample["output"] == expected
        assert sample["shortened"] is (room < NEW_TOKENS)
    assert score.results["shortened"] == 1
    assert "1 of 8 prompts leave fewer than 12 of the model's positions" in caplog.text
    for answer_by, longer in (("generation", 4), ("likelihood", 3)):
        model.config.n_positions = most - longer
        rows = [replace(one, reference={"answer": "Yes.", "choices": ["Yes."]}) for one in examples]
        with pytest.raises(
            UserError, match=f"test row q200 takes .* the model has {most - longer}"
        ):
            evaluate_domain(model, renderer, rows, ExactMatch(), NEW_TOKENS, 3, answer_by)


def test_a_typed_budget_has_to_fit(model, renderer):
    settings, rows = model.config.to_dict(), questions()
    longest = max(len(renderer.prompt_ids(example.messages)) for example in rows)
    fits = 2048 - longest
    for budget, answer_by in ((fits, "generation"), (fits + 1, "likelihood"), (None, "generation")):
        check_prompts(settings, renderer, rows, DomainEvalConfig(answer_by, budget))
    with pytest.raises(UserError, match=f"set domain.max_new_tokens={fits}"):
        check_prompts(settings, renderer, rows, DomainEvalConfig("generation", fits + 1))


def test_cut_answers_are_counted_and_a_large_share_is_warned_of(model, renderer, caplog):
    examples = [replace(one, reference={"answer": "Yes."}) for one in questions()]
    score = evaluate_domain(model, renderer, examples, ExactMatch(), 3, 4)
    assert score.results["cut"] == sum(sample["cut"] for sample in score.samples) > 1
    assert "did not end within 3 tokens" in caplog.text
    assert "domain.max_new_tokens=6" in caplog.text
