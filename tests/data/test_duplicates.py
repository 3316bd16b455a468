"""What occurs twice, and which rows a limit takes."""

import itertools
import random
import tracemalloc
from collections import Counter

import pytest

from talr_cli.data import duplicates
from talr_cli.data.base import Example, Splits
from talr_cli.data.duplicates import check_overlap, count_overlap, unique_ids
from talr_cli.data.splitting import sample_evenly, spread_evenly
from talr_cli.errors import UserError
from talr_cli.scorers.text import ExactMatch


def example(name, prompt="a", **values):
    return Example(name, ({"role": "user", "content": prompt},), "x", **values)


def test_ids_that_occur_twice_are_numbered_and_warned_of(caplog):
    ids = ["a", "b", "a", "a#2", "a", "b"]
    rows = unique_ids([example(name) for name in ids], "test")
    assert [row.id for row in rows] == ["a", "b", "a#3", "a#2", "a#4", "b#2"]
    assert "2 ids of the test rows occur more than once, such as a:" in caplog.text
    assert unique_ids(rows, "test") == rows


@pytest.mark.parametrize(
    ("train", "test", "same"),
    [
        ("What  is 2 + 3?\n", "what is 2 + 3?", True),
        ("Strasse", "STRAße", True),
        ("ﬁne ２", "fine 2", True),
        ("What is 2 + 3?", "What is 2 + 4?", False),
    ],
)
def test_overlap_ignores_case_space_and_unicode_forms(train, test, same):
    assert count_overlap([example("one", train)], [example("two", test)]) == same
    other = {"role": "system", "content": test}
    assert count_overlap([example("one", train)], [Example("two", (other,), "x")]) == 0


def test_each_test_row_that_was_trained_on_counts_once():
    train = [example(str(n), prompt) for n, prompt in enumerate("aab")]
    assert count_overlap(train, [example(str(n), prompt) for n, prompt in enumerate("aAcb")]) == 3
    assert count_overlap(train, []) == count_overlap([], [example("t", "a")]) == 0


def test_prompts_of_training_rows_are_compared_without_a_copy_of_all():
    """Of two gigabytes of text it would take two more."""
    train = [example(str(n), f"{n:07} " + "word " * 200) for n in range(1000)]
    tracemalloc.start()
    assert count_overlap(train, [example("t", train[5].messages[0]["content"])]) == 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000  # bytes; the prompts have a million


def test_overlap_counts_every_trained_turn_and_no_other():
    first = {"role": "user", "content": "first"}
    answer = {"role": "assistant", "content": "yes"}
    second = {"role": "user", "content": "second"}
    tests = [example("t", "first"), example("u", "second")]
    assert count_overlap([Example("a", (first, answer, second), "x", turns=(1,))], tests) == 1
    assert count_overlap([Example("a", (first, answer, second), "x")], tests) == 0


def test_each_message_of_a_long_chat_is_normalised_once(monkeypatch):
    """With all of its answers trained; a prompt longer than all that are asked is not at all."""
    asks = [{"role": role, "content": str(n)} for n in range(50) for role in ("user", "assistant")]
    row = Example("a", tuple(asks[:-1]), "x", turns=tuple(range(1, 99, 2)))
    tests = [Example(str(n), tuple(asks[:n]), "x") for n in (1, 39, 40, 41)]
    seen, normalise = Counter(), duplicates.normalise
    monkeypatch.setattr(
        duplicates, "normalise", lambda text: seen.update([text]) or normalise(text)
    )
    assert count_overlap([row], tests) == 3  # 40 messages end with an answer
    assert max(seen.values()) <= 2 * (1 + len(tests))  # each number is said twice
    assert sum(seen.values()) == 1 + 39 + 40 + 41 + 41


def test_too_many_test_rows_that_are_trained_on_are_refused_where_they_are_scored(caplog):
    train = [example(str(n), str(n)) for n in range(10)]
    test = [example(str(n), str(n)) for n in range(8, 18)]
    check_overlap(Splits(train, [], test, ExactMatch()), 0.2)
    assert "2 of 10 test prompts also occur in training" in caplog.text
    with pytest.raises(UserError, match=r"2 of 10 .* more than dataset\.max_overlap=0\.1"):
        check_overlap(Splits(train, [], test, ExactMatch()), 0.1)
    check_overlap(Splits(train, [], test, None), 0.1)
    with pytest.raises(UserError, match=r"10 of 10 .* more than dataset\.max_overlap=0\.2"):
        check_overlap(Splits(train, [], train, ExactMatch()))


@pytest.mark.parametrize("kind", ["category", "group"])
def test_a_limit_takes_the_same_share_of_every_kind_in_the_order_of_the_file(kind):
    sizes = {"a": 60, "b": 30, "c": 10}
    rows = [
        example(f"{name}{n}", **{kind: name}) for name, size in sizes.items() for n in range(size)
    ]
    random.Random(0).shuffle(rows)
    for limit in (10, 20, 33, 50):
        chosen = sample_evenly(rows, limit)
        assert len(chosen) == limit
        counts = Counter(getattr(row, kind) for row in chosen)
        assert all(abs(counts[name] - limit * size / 100) <= 1 for name, size in sizes.items())
        assert chosen == [row for row in rows if row in chosen]
    assert {row.id for row in sample_evenly(rows, 10)} != {row.id for row in rows[:10]}
    assert sample_evenly(rows, 10) == sample_evenly(rows, 10)
    assert sample_evenly(rows, None) == sample_evenly(rows, 500) == rows


def test_groups_within_a_category_have_their_share_too():
    rows = [example(f"{n}", category="ab"[n % 2], group=f"g{n % 8}") for n in range(80)]
    assert Counter(row.group for row in sample_evenly(rows, 16)) == {f"g{n}": 2 for n in range(8)}
    # In the order a g0, a g2, ..., b g7, of ten rows each: the middles of two halves.
    assert [row.id for row in sample_evenly(rows, 2)] == ["4", "5"]


@pytest.mark.parametrize("total", [1, 64, 65, 100, 127, 128, 343])
def test_a_spread_leaves_gaps_that_differ_by_one_at_most(total):
    rows = [*range(total)]
    found = spread_evenly(rows, 64)
    assert len(found) == min(64, total)
    gaps = {later - one for one, later in itertools.pairwise([*found])}
    assert gaps <= {total // 64, -(-total // 64)} or total < 64
    # As much is left out at the beginning as at the end, but for one.
    assert found[0] - (total - 1 - found[-1]) in (0, 1)
