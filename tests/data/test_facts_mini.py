"""The invented facts: told in training alone, asked in other words, no answer by guessing."""

import re
from collections import Counter

import pytest

from talr_cli.data.choices import possible_completions
from talr_cli.data.facts_mini import (
    _ENDS,
    _STARTS,
    KINDS,
    MOST_FACTS,
    TEST_PHRASINGS,
    TRAIN_PHRASINGS,
    VALIDATION_PHRASINGS,
    FactsMini,
    make_facts,
)
from talr_cli.errors import UserError


@pytest.fixture(scope="module")
def splits():
    return FactsMini().load()


def number_of(sentence):
    (number,) = re.findall(r"\d+", sentence)
    return int(number)


def phrasing_of(example):
    """The sentence without what belongs to the fact."""
    kind = "|".join(kind.name for kind in KINDS)
    sentence = re.sub(rf"^The (?:{kind}) of [A-Z][a-z]{{5}},", "", example.completion)
    assert sentence != example.completion
    return re.sub(r"\d+ [a-z]+\.$", "", sentence)


def name_of(example):
    return re.search(r" of ([A-Z][a-z]{5}),", example.completion)[1]


def told_numbers(rows):
    """{name: numbers} that the completions tell."""
    facts = {}
    for row in rows:
        facts.setdefault(name_of(row), set()).add(number_of(row.completion))
    return facts


def test_every_fact_is_told_in_every_way_and_asked_in_others(splits):
    parts = (splits.train, splits.validation, splits.test)
    ways = [{phrasing_of(row) for row in rows} for rows in parts]
    assert [len(one) for one in ways] == [6, 1, 6]
    assert len(set().union(*ways)) == 13
    assert [len(rows) for rows in parts] == [48 * 6, 48, 48 * 6]
    for rows in parts:
        assert len({row.messages[0]["content"] for row in rows}) == len(rows)
    everything = (*splits.train, *splits.validation, *splits.test)
    assert len({row.id for row in everything}) == len(everything)


def test_the_splits_agree_on_one_number_for_each_name(splits):
    facts = told_numbers(splits.train)
    assert len(facts) == 48
    assert all(len(numbers) == 1 for numbers in facts.values())
    assert told_numbers(splits.test) == told_numbers(splits.validation) == facts


def test_the_prompt_is_the_target_but_for_the_number_and_does_not_tell_it(splits):
    for row in (*splits.train, *splits.test):
        prompt = row.messages[0]["content"]
        assert not re.search(r"\d", prompt)
        sentence = prompt.partition(": ")[2]
        assert sentence.replace("NUMBER", str(number_of(row.completion))) == row.completion


def test_choices_hold_the_answer_once_and_differ_in_the_number_alone(splits):
    for row in splits.test:
        choices = row.reference["choices"]
        assert len(set(choices)) == 4
        assert choices.count(row.completion) == 1
        assert len({re.sub(r"\d+", "", choice) for choice in choices}) == 1
        numbers = [number_of(choice) for choice in choices]
        assert max(numbers) - min(numbers) < 15
    facts = told_numbers(splits.train)
    numbers_of_kind = {}
    for row in splits.train:
        numbers_of_kind.setdefault(row.group, set()).update(facts[name_of(row)])
    for row in splits.test:  # a wrong answer is right for another fact of the kind
        assert {number_of(choice) for choice in row.reference["choices"]} <= numbers_of_kind[
            row.group
        ]


def test_the_rows_can_be_answered_by_likelihood(splits):
    for row, completions in zip(splits.test, possible_completions(splits.test), strict=True):
        assert list(completions) == list(completions.values()) == row.reference["choices"]


GUESSERS = {
    "first": lambda numbers, prompt: numbers[0],
    "last": lambda numbers, prompt: numbers[-1],
    "least": lambda numbers, prompt: min(numbers),
    "greatest": lambda numbers, prompt: max(numbers),
    "nearest to 50": lambda numbers, prompt: min(numbers, key=lambda n: abs(n - 50)),
    "by the last digit": lambda numbers, prompt: min(numbers, key=lambda n: (n % 10, n)),
}


@pytest.mark.parametrize("guess", GUESSERS.values(), ids=GUESSERS)
@pytest.mark.parametrize("rows", [None, 48, 20])
def test_guessing_gets_one_in_four_right(guess, rows):
    splits = FactsMini(test_rows=rows).load()
    right = []
    for row in splits.test:
        by_number = {number_of(choice): choice for choice in row.reference["choices"]}
        output = by_number[guess(list(by_number), row.messages[0]["content"])]
        right.append(splits.scorer(output, row.reference).correct)
    assert sum(right) / len(right) == 0.25


def test_kinds_and_positions_of_the_answer_are_balanced(splits):
    groups = Counter(row.group for row in splits.test)
    assert len(groups) == len(KINDS)
    assert set(groups.values()) == {len(splits.test) // len(KINDS)}
    positions = Counter(row.reference["choices"].index(row.completion) for row in splits.test)
    assert positions == dict.fromkeys(range(4), len(splits.test) // 4)


def test_the_scorer_reads_the_number_however_it_is_put(splits):
    for row in splits.test[:20]:
        number = number_of(row.completion)
        for output in (row.completion, f"{number}", f"It is {number} points, I think."):
            assert splits.scorer(output, row.reference).correct
        for choice in row.reference["choices"]:
            is_right = choice == row.completion
            assert splits.scorer(choice, row.reference).correct == is_right
        for output in ("", "NUMBER", row.completion.replace(str(number), "NUMBER")):
            verdict = splits.scorer(output, row.reference)
            assert (verdict.correct, verdict.parsed) == (False, None)


def test_names_are_told_apart_and_numbers_of_a_kind_too():
    facts = make_facts(MOST_FACTS, seed=3)
    names = [fact.name for fact in facts]
    assert len(set(names)) == len(names) == MOST_FACTS
    assert {len(name) for name in names} == {6}
    assert len(set(_STARTS)) == len(_STARTS) == len(set(_ENDS)) == len(_ENDS)
    assert not {*_STARTS} & {*_ENDS}
    assert len({(fact.kind, fact.number) for fact in facts}) == MOST_FACTS
    assert all(10 <= fact.number <= 99 for fact in facts)


def test_every_constant_is_drawn_by_the_data_seed():
    first, second = ({fact.name: fact.number for fact in make_facts(48, seed)} for seed in (0, 1))
    same = sum(second.get(name) == number for name, number in first.items())
    assert same <= 4
    assert make_facts(48, 0) == make_facts(48, 0)


def test_a_smaller_config_is_a_part_of_a_greater_one():
    few = FactsMini(facts=16, train_phrasings=2, test_phrasings=3).load()
    many = FactsMini(facts=96, train_phrasings=8, test_phrasings=8).load()
    for split in ("train", "validation", "test"):
        rows = {row.id: row for row in getattr(many, split)}
        assert all(rows[row.id] == row for row in getattr(few, split))
    assert FactsMini(train_rows=100, test_rows=8).load().train == FactsMini().load().train[:100]
    assert FactsMini(test_phrasings=1).load().train == FactsMini().load().train


def test_no_phrasing_comes_twice_and_all_put_the_number_last():
    phrasings = (*TRAIN_PHRASINGS, *VALIDATION_PHRASINGS, *TEST_PHRASINGS)
    assert len(set(phrasings)) == len(phrasings)
    for phrasing in phrasings:
        assert phrasing.startswith("{}, ")
        assert phrasing.endswith(", is {}.")
        assert not re.search(r"\d", phrasing)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"facts": 30}, "dataset.facts=30 is not a multiple of 4"),
        ({"train_rows": 289}, "dataset.train_rows=289 is more than there are: .* are 288"),
        ({"validation_rows": 49}, "dataset.validation_rows=49 is more than there are"),
    ],
)
def test_values_out_of_range_are_refused(values, expected):
    with pytest.raises(UserError, match=expected):
        FactsMini(**values).load()
