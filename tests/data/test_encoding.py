"""Rows that cannot be trained are named, refused or left out; what the template does is said."""

import copy
import hashlib
import itertools
import random
import struct
import tracemalloc

import pytest

from talr_cli.data import encoding
from talr_cli.data.base import Example
from talr_cli.data.encoding import (
    TokenRows,
    digest,
    encode_all,
    encode_each,
    encode_training_rows,
)
from talr_cli.data.rendering import Rendered, Renderer, RowError
from talr_cli.errors import UserError

EXAMPLE = Example("one", ({"role": "user", "content": "What is 2 + 3?"},), "Answer: 5")


def test_long_rows_are_cut_and_those_without_a_target_are_named(renderer):
    long_answer = Example("answer", EXAMPLE.messages, "word " * 500)
    long_prompt = Example("prompt", ({"role": "user", "content": "word " * 500},), "yes")
    encoded = encode_all([EXAMPLE, long_answer, long_prompt], renderer, max_length=200)
    assert [len(row.input_ids) for row in encoded.rows][1:] == [200]
    assert encoded.rows[1].targets == encoded.rows[1].input_ids[-len(encoded.rows[1].targets) :]
    assert encoded.cut == 1
    assert len(encoded.without_target) == 1
    assert encoded.without_target[0].startswith("prompt (5")
    whole = len(renderer.encode(EXAMPLE).input_ids)
    assert [encode_all([EXAMPLE], renderer, length).cut for length in (whole, whole - 1)] == [0, 1]


def test_rows_without_a_target_are_refused_or_left_out_up_to_a_share(renderer, caplog):
    rows = [EXAMPLE, Example("prompt", ({"role": "user", "content": "word " * 500},), "yes")]
    why = r"1 of 2 training rows have no target token within trainer.max_length=200: prompt \(5"
    with pytest.raises(UserError, match=why):
        encode_training_rows(rows, renderer, 200)
    with pytest.raises(UserError, match=why):
        encode_training_rows(rows, renderer, 200, skip=True, max_bad_share=0.49)
    left = encode_training_rows(rows, renderer, 200, skip=True, max_bad_share=0.5)
    assert [*left] == [renderer.encode(EXAMPLE)]
    assert "raise trainer.max_length. Left out" in caplog.text
    with pytest.raises(UserError, match="none of 1 training rows can be trained"):
        encode_training_rows(rows[1:], renderer, 200, skip=True, max_bad_share=1.0)
    assert len(encode_training_rows([], renderer, 200)) == 0


def test_rows_take_few_bytes_a_token_and_are_what_was_rendered(renderer):
    """Half a gigabyte of text is 150 million tokens, in each process of a training."""
    examples = [
        Example(str(n), EXAMPLE.messages, " ".join(map(str, range(n, n + 400)))) for n in range(50)
    ]
    expected = [renderer.encode(example) for example in examples]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    rows = encode_all(examples, renderer, max_length=1000).rows
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 12 * sum(len(row.input_ids) for row in rows)
    assert [*rows] == [Rendered(row.cut(1000).input_ids, row.cut(1000).labels) for row in expected]
    assert rows[-1] == rows[49:][0] == [*rows][49]
    order = [*range(50)]
    random.Random(3).shuffle(order)
    assert [*rows.shuffled(3)] == [rows[index] for index in order]


def test_what_is_counted_of_all_rows_at_once_is_what_each_row_says():
    """The digest is that of every checkpoint that was written before."""
    rows = [
        Rendered([5, 70_000, 3], [-100, 70_000, 3]),
        Rendered([], []),
        Rendered([8, 9], [-100, -100]),
        Rendered([1], [1]),
        Rendered([], []),
    ]
    tokens = TokenRows(rows)
    assert tokens.lengths == [3, 0, 2, 1, 0]
    assert tokens.target_counts == [len(row.targets) for row in rows] == [2, 0, 0, 1, 0]
    assert TokenRows().lengths == TokenRows().target_counts == []
    assert [*tokens[2:]] == rows[2:]
    numbers = [one for row in rows for one in (len(row.labels), *row.input_ids, *row.labels)]
    expected = hashlib.sha256(struct.pack(f"<{len(numbers)}q", *numbers)).hexdigest()
    assert digest(tokens) == digest(tokens[:2], TokenRows(), tokens[2:]) == expected


def test_rows_are_encoded_together_as_they_are_alone(renderer, monkeypatch):
    """Among them rows of several turns, over the most of one call, with errors, alike."""
    turn = ({"role": "user", "content": " 1 + 1?\n"}, {"role": "assistant", "content": "\n2"})
    examples = [
        EXAMPLE,
        Example("turns", (*turn, *turn, *turn, *EXAMPLE.messages), "5  \n", turns=(1, 3)),
        Example("half a letter", EXAMPLE.messages, "\ud800"),
        Example("long", EXAMPLE.messages, "é 漢字 🙂 " * 100),
        Example("no messages", ({"content": "Hi"},), "5"),
        EXAMPLE,
        Example("special", EXAMPLE.messages, "<|im_start|>5<|im_end|>"),
    ]

    def alone(example):
        try:
            return renderer.encode(example)
        except RowError as error:
            return str(error)

    expected = [*map(alone, examples)]
    assert [type(one).__name__[0] for one in expected] == [*"RRsRsRR"]
    for characters in (0, 400, 1 << 18):
        monkeypatch.setattr(encoding, "BATCH_CHARACTERS", characters)
        for some in (slice(None), slice(0, 2), slice(3, None), slice(4, 5), slice(0, 0)):
            found = encode_each(examples[some], renderer)
            together = [str(one) if isinstance(one, RowError) else one for one in found]
            assert together == expected[some]


def test_many_rows_are_tokenized_in_few_calls(renderer, monkeypatch):
    calls = []
    tokenize = renderer.tokenize
    monkeypatch.setattr(renderer, "tokenize", lambda text: calls.append(text) or tokenize(text))
    examples = [Example(str(n), EXAMPLE.messages, str(n)) for n in range(100)]
    assert len(encode_all(examples, renderer, 200).rows) == 100
    assert len(calls) == 1


def test_a_row_of_many_turns_is_tokenized_in_linear_time(renderer, monkeypatch):
    """Each of its trained turns begins where the tokens of its prompt end."""
    messages = [
        {"role": role, "content": f" {role}  says {n}\n"}
        for n in range(20)
        for role in ("user", "assistant")
    ]
    messages.pop()
    answers = range(1, len(messages), 2)
    seen, tokenize = [], renderer.tokenize
    monkeypatch.setattr(renderer, "tokenize", lambda text: seen.append(text) or tokenize(text))
    row = renderer.encode(Example("x", tuple(messages), "bye", turns=tuple(answers)))
    monkeypatch.undo()
    assert sum(map(len, seen)) < 4 * len(renderer.tokenizer.decode(row.input_ids))
    for turn in (*answers, len(messages)):
        prompt = renderer.prompt_ids(messages[:turn])
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels[len(prompt) - 1] == -100 != row.labels[len(prompt)]
    is_trained = [label != -100 for label in row.labels]
    assert [*itertools.pairwise(is_trained)].count((False, True)) == 20
    assert not row.tokenized_apart


@pytest.fixture
def strict_renderer(tokenizer):
    """A renderer whose template refuses system messages and drops thoughts."""
    before, template = (
        tokenizer.chat_template,
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
            "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
    tokenizer.chat_template = template
    yield Renderer(tokenizer, {})
    tokenizer.chat_template = before


def test_rows_that_cannot_be_rendered_whole_are_refused_or_left_out(strict_renderer, caplog):
    system = Example("sys", ({"role": "system", "content": "x"}, *EXAMPLE.messages), "5")
    thought = Example("thought", EXAMPLE.messages, "<think>Hm.</think>5")
    rows = [EXAMPLE, system, thought]
    with pytest.raises(UserError) as error:
        encode_training_rows(rows, strict_renderer, 200)
    message = str(error.value)
    assert "2 of 3 training rows" in message
    assert "sys: the chat template refuses it: no system" in message
    assert "thought: the chat template drops '<think>Hm.</think>5'" in message
    assert "dataset.max_bad_share=0.67" in message
    with pytest.raises(UserError):
        encode_training_rows(rows, strict_renderer, 200, skip=True, max_bad_share=0.66)
    assert len(encode_training_rows(rows, strict_renderer, 200, skip=True, max_bad_share=0.67)) == 1
    assert "Left out" in caplog.text


def test_text_that_the_template_adds_is_warned_of_with_the_first_row(tokenizer, caplog):
    before = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encode_training_rows([EXAMPLE], Renderer(tokenizer, {}), 200)
    tokenizer.chat_template = before
    assert "1 of 1 training rows" in caplog.text
    assert "one: '<think></think> ...'" in caplog.text


def test_template_tokens_in_the_texts_of_rows_are_warned_of_with_the_first_row(renderer, caplog):
    """Rows that were exported with a template in them would be given a second one."""
    asked = {"role": "user", "content": "<|im_start|>user\nWhat is 2 + 3?<|im_end|>"}
    rows = [EXAMPLE, Example("two", (asked,), "5"), Example("x", EXAMPLE.messages, "5<|im_end|>")]
    encode_training_rows(rows, renderer, 200)
    assert "in 2 of 3 training rows the texts hold tokens that only a chat template" in caplog.text
    assert "the first is two: '<|im_start|>'" in caplog.text
    caplog.clear()
    encode_training_rows([Example("x", EXAMPLE.messages, "<b>5</b> [INST] <think>")], renderer, 200)
    assert not caplog.text


def test_context_that_the_template_drops_is_warned_of_with_the_first_row(renderer, caplog):
    """The template of the test's model, as many, writes texts alone: no tools and no calls."""
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"id": 7}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    told = {"role": "tool", "content": '{"status": "ok"}'}
    said = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nWait."}
    asked = EXAMPLE.messages[0]
    tool = {"type": "function", "function": {"name": "pay_back", "parameters": {}}}
    rows = [
        Example("plain", (asked, said, {"role": "user", "content": " Well?\n"}), "5"),
        Example("called", (asked, called, told), "5"),
        Example("tools", (asked,), "5", tools=(tool,)),
    ]
    encode_training_rows(rows, renderer, 200)
    assert "drops a part of 2 of 3 training rows, which the model thus does not see" in caplog.text
    assert "the first is called: 'look_up'" in caplog.text
    caplog.clear()
    encode_training_rows(rows[:1], renderer, 200)
    assert not caplog.text
    deaf = copy.deepcopy(renderer.tokenizer)
    deaf.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    told = Example("told", ({"role": "system", "content": "Be brief."}, asked), "5")
    encode_training_rows([told], Renderer(deaf, {}), 200)
    assert "the first is told: 'Be brief.'" in caplog.text
