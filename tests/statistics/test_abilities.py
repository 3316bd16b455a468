"""What was lost and won, less guessing: by an independent count, and against models that guess."""

import math
from dataclasses import astuple

import numpy
import pytest
from synthetic_study import scored

from talr_cli.report.tables.methods import method_lines
from talr_cli.statistics.abilities import Guesses, abilities, abilities_of
from talr_cli.statistics.groups import comparable

NONE = Guesses({}, {})


def of_one(before, after, guesses=NONE):
    base = scored("base", before, {"a": before})
    one = scored("sft", after, {"a": after}, id="one")
    return {ability.part: ability for ability in abilities_of(base, one, guesses)}


def test_written_answers_are_counted_as_they_are():
    before = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    after = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    written = Guesses({"domain": dict.fromkeys(map(str, range(10)), 1)}, {"one": {"domain": set()}})
    found = of_one(before, after, written)["domain"]
    assert (found.before, found.after, found.n, found.chance) == (0.4, 0.2, 10, 0.0)
    assert found.lost.estimate == pytest.approx(0.3)
    assert found.won.estimate == pytest.approx(0.1)
    assert found.change.estimate == pytest.approx(-0.2)
    # One more item of the largest value, beside the variance of those that are there.
    values = numpy.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    error = math.sqrt(values.var(ddof=1) / 10 + 1 / 10 / 9)
    assert found.lost.standard_error == pytest.approx(error)
    assert found.lost.interval() == pytest.approx([0.3 - 1.959964 * error, 0.3 + 1.959964 * error])


def test_each_item_has_the_chance_of_its_own_choices():
    before = [1, 1, 0, 0, 0, 1]
    after = [0, 0, 1, 0, 0, 1]
    choices = {"0": 4, "1": 3, "2": 5, "3": 4, "4": 3, "5": 2}
    moved = {"one": {"general/a": frozenset(["3", "4"])}}
    found = of_one(before, after, Guesses({"general/a": choices}, moved))["general/a"]
    # By hand: 1->0 counts k / (k-1); an item that moved between wrong answers is k / (k-1) / (k-2)
    # of a flip by luck.
    by_luck = 4 / 3 / 2 + 3 / 2 / 1
    assert found.lost.estimate == pytest.approx((4 / 3 + 3 / 2 - by_luck) / 6)
    assert found.won.estimate == pytest.approx((5 / 4 - by_luck) / 6)
    values = [4 / 3, 3 / 2, 0, -4 / 3 / 2, -3 / 2, 0]
    largest = (4 / 3 + 3 / 2 + 5 / 4 + 4 / 3 + 3 / 2 + 1) / 6
    variance = numpy.var(values, ddof=1) / 6 + largest**2 / 6 / 5
    assert found.lost.item_variance == pytest.approx(variance)
    assert found.chance == pytest.approx((1 / 4 + 1 / 3 + 1 / 5 + 1 / 4 + 1 / 3 + 1 / 2) / 6)
    assert (found.lost_seen, found.won_seen) == (pytest.approx(2 / 6), pytest.approx(1 / 6))


def test_of_two_choices_nothing_can_be_subtracted():
    guesses = Guesses({"domain": dict.fromkeys("0123", 2)}, {"one": {"domain": frozenset()}})
    found = of_one([1, 1, 0, 0], [0, 1, 1, 0], guesses)["domain"]
    assert (found.lost.estimate, found.won.estimate, found.chance) == (0.25, 0.25, 0.5)


@pytest.mark.parametrize("repeats", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("k", [3, 4, 5])
def test_what_a_guessing_model_lost_is_found_whatever_guesses_it_repeats(k, repeats):
    """Known or guessed among k; a guess is repeated with some probability, else drawn anew."""
    draw = numpy.random.default_rng(k)
    n, lost, won = 60_000, 0.12, 0.05
    state = draw.random(n)
    knew = state < 0.4
    knows = (state >= lost) & (state < 0.4) | (state >= 0.4) & (state < 0.4 + won)
    first = draw.integers(0, k, n)  # 0 is the right answer
    second = numpy.where(draw.random(n) < repeats, first, draw.integers(0, k, n))
    first = numpy.where(knew, 0, first)
    # What is forgotten is guessed anew.
    second = numpy.where(knows, 0, numpy.where(knew, draw.integers(0, k, n), second))
    keys = [str(place) for place in range(n)]
    moved = frozenset(
        key for key, a, b in zip(keys, first, second, strict=True) if a and b and a != b
    )
    guesses = Guesses({"domain": dict.fromkeys(keys, k)}, {"one": {"domain": moved}})
    found = of_one(first == 0, second == 0, guesses)["domain"]
    assert found.lost.estimate == pytest.approx(lost, abs=0.008)
    assert found.won.estimate == pytest.approx(won, abs=0.008)


def test_seeds_are_averaged_and_their_deviation_is_in_the_error():
    draw = numpy.random.default_rng(0)
    before = draw.random(200) < 0.5
    after = [draw.random(200) < share for share in (0.3, 0.4, 0.5)]
    base = scored("base", before, {"a": before})
    runs = [
        scored("sft", one, {"a": one}, seed=seed, id=f"{seed}") for seed, one in enumerate(after)
    ]
    (group,) = comparable([base, *runs])
    found = next(one for one in abilities(group, NONE) if one.part == "domain")
    lost = [float((before & ~one).mean()) for one in after]
    assert (found.seeds, found.chance) == (3, None)
    assert found.after == pytest.approx(numpy.mean(after))
    assert found.change.estimate == pytest.approx(found.after - found.before)
    assert found.lost.estimate == pytest.approx(numpy.mean(lost))
    assert found.lost.run_variance == pytest.approx(numpy.var(lost, ddof=1) / 3)
    assert found.lost.df == 2
    (alone,) = comparable([base, runs[0]])
    assert abilities(alone, NONE)[0].lost.run_variance is None


def test_a_change_is_as_sure_as_where_methods_are_compared():
    """Settings with every item right say nothing of how far others deviate, there as here."""
    draw = numpy.random.default_rng(2)
    before = draw.random(60) < 0.3
    written = {"a": draw.random(60) < 0.5, "b": draw.random(60) < 0.5}
    base = scored("base", before, written)
    runs = [
        scored(method, draw.random(60) < right, written, seed=seed, id=f"{method}{seed}")
        for method, rights in (("sft", (0.5, 0.9)), ("talr", (1.1, 1.1)))
        for seed, right in enumerate(rights)
    ]
    choices = Guesses(
        {"domain": dict.fromkeys(base["domain"]["items"], 4)},
        {one["run"]["id"]: {"domain": frozenset()} for one in runs},
    )
    (group,) = comparable([base, *runs])
    found = [one for one in abilities(group, choices) if one.part == "domain"]
    changes = [line.changes["domain"] for line in method_lines(group)[1:]]
    for one, other in zip(found, changes, strict=True):
        assert astuple(one.change) == pytest.approx(astuple(other))
    first, second = (float(one["domain"]["score"]) for one in runs[:2])
    assert found[1].change.run_variance == pytest.approx((first - second) ** 2 / 2 / 2)
    assert found[1].change.df == 1


def test_scores_that_are_neither_right_nor_wrong_have_no_transitions():
    assert of_one([1, 0.5, 0, 1], [1, 0, 0, 1]) == {}
    assert of_one([1, 0], [0, 0])["domain"].lost.estimate == 0.5
    assert of_one([1, 0, 0, 1], [1, 0.25, 0, 1]) == {}


def test_other_items_are_not_compared():
    base = scored("base", [1, 0, 1], {"a": [1, 0, 1]})
    one = scored("sft", [1, 0], {"a": [1, 0, 1]}, id="one")
    assert [ability.part for ability in abilities_of(base, one, NONE)] == ["general/a"]
