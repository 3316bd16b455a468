"""The embedded general instructions: whole, plain, and nothing of the embedded suite in them."""

import ast
import json
import re
from importlib.resources import files

import pytest

SUITE = files("talr_cli.evaluation.general") / "mini"
TASKS = ("arithmetic", "instructions", "knowledge", "python")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ngrams(text, size):
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def words_of(text):
    return " ".join(re.findall(r"\w+", text.casefold()))


@pytest.fixture(scope="module")
def rows():
    return lines(files("talr_cli.data") / "general_mini.jsonl")


@pytest.fixture(scope="module")
def items():
    """The suite's items as text: what is asked, and every answer offered."""
    return [
        [item.get("question") or item["prompt"], *item.get("choices", ())]
        for task in TASKS
        for item in lines(SUITE / f"{task}.jsonl")
    ]


def test_every_row_is_a_prompt_and_a_completion_of_10_to_80_words(rows):
    assert len(rows) == 120
    for row in rows:
        assert set(row) == {"prompt", "completion"}
        assert row["prompt"].strip() == row["prompt"] != ""
        assert 10 <= len(row["completion"].split()) <= 80, row["prompt"]


def test_no_prompt_comes_twice(rows):
    assert len({words_of(row["prompt"]) for row in rows}) == len(rows)


def test_no_row_is_or_resembles_an_item_of_the_suite(rows, items):
    asked = {words_of(item[0]) for item in items}
    of_the_suite = set().union(*(ngrams(" ".join(item), 6) for item in items))
    assert len(of_the_suite) > 1000
    for row in rows:
        assert words_of(row["prompt"]) not in asked
        for text in row.values():
            assert not ngrams(text, 6) & of_the_suite, text


def test_no_row_quotes_the_text_that_drift_is_measured_on(rows):
    drift = ngrams((SUITE / "drift.txt").read_text(encoding="utf-8"), 8)
    assert len(drift) > 1000
    for row in rows:
        for text in row.values():
            assert not ngrams(text, 8) & drift, text


def test_the_sums_in_the_answers_are_right(rows):
    sums = [
        found
        for row in rows
        for found in re.findall(r"([\d.]+) ([-+*/]) ([\d.]+) = ([\d.]*\d)", row["completion"])
    ]
    assert len(sums) >= 15
    compute = {
        "+": float.__add__,
        "-": float.__sub__,
        "*": float.__mul__,
        "/": float.__truediv__,
    }
    for left, sign, right, result in sums:
        value = compute[sign](float(left), float(right))
        assert value == pytest.approx(float(result)), (left, sign, right, result)


def test_the_python_in_the_answers_is_python(rows):
    blocks = [
        block
        for row in rows
        for block in re.findall(r"```python\n(.*?)```", row["completion"], re.DOTALL)
    ]
    assert len(blocks) >= 8
    for block in blocks:
        assert isinstance(ast.parse(block).body[0], ast.FunctionDef)
