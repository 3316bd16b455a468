"""Paired differences against formulas, scipy, and what must not change them."""

import copy
import itertools
import math
import random

import numpy
import pytest
from scipy import stats
from synthetic_study import results, scored

from talr_cli.statistics import paired
from talr_cli.statistics.paired import (
    UnpairedError,
    compare_part,
    difference,
    mcnemar,
    paired_difference,
    paired_items,
)
from talr_cli.statistics.pairs import measured_alike, section_of


def answers(n, seed=0, share=0.5, agreement=0.7):
    """Right and wrong answers of two models that agree more often than chance."""
    generator = numpy.random.default_rng(seed)
    before = generator.random(n) < share
    again = generator.random(n) < share + 0.1
    after = numpy.where(generator.random(n) < agreement, before, again)
    return before.astype(float), after.astype(float)


def compared(*tasks):
    """Each task is the scores before and the scores after."""
    return paired_difference([list(zip(*task, strict=True)) for task in tasks])


def test_a_large_sample_has_the_normal_interval_of_a_paired_difference():
    before, after = answers(4000)
    change = after - before
    stderr = change.std(ddof=1) / math.sqrt(4000)
    found = compared((before, after))
    assert found.difference == pytest.approx(after.mean() - before.mean())
    assert found.stderr == pytest.approx(stderr)
    assert found.low == pytest.approx(change.mean() - 1.96 * stderr, abs=0.1 * stderr)
    assert found.high == pytest.approx(change.mean() + 1.96 * stderr, abs=0.1 * stderr)
    assert found.p == pytest.approx(2 * stats.norm.sf(change.mean() / stderr), abs=0.005)
    # What independent samples would say is wider: the models agree.
    assert stderr < 0.8 * math.hypot(before.std(), after.std()) / math.sqrt(4000)


def test_graded_scores_agree_with_scipys_bootstrap():
    generator = numpy.random.default_rng(5)
    before = generator.random(60)
    after = before + generator.exponential(0.2, 60) - 0.15
    found = compared((before, after))
    theirs = stats.bootstrap(
        (after - before,), numpy.mean, method="percentile", n_resamples=10_000, rng=1
    )
    width = found.high - found.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)
    assert found.mcnemar is None


def test_the_memory_at_hand_changes_no_number(monkeypatch):
    draw = random.Random(4)
    pairs = [(draw.random(), draw.random()) for _ in range(50)]
    whole = paired_difference([pairs])
    paired._bootstrap.cache_clear()
    monkeypatch.setattr(paired, "_MAX_COUNTS", 50 * 333)
    assert paired_difference([pairs]) == whole


def test_the_mean_of_tasks_is_resampled_within_each_task():
    tasks = [answers(900, seed=1), answers(2500, seed=2, share=0.2), answers(400, seed=3)]
    found = compared(*tasks)
    changes = [after - before for before, after in tasks]
    assert found.difference == pytest.approx(numpy.mean([change.mean() for change in changes]))
    stderr = math.sqrt(sum(change.var(ddof=1) / len(change) for change in changes)) / 3
    assert found.stderr == pytest.approx(stderr)
    assert found.high - found.low == pytest.approx(2 * 1.96 * stderr, rel=0.05)
    assert (found.n, found.won + found.lost) == (3800, sum(abs(c).sum() for c in changes))
    assert found.mcnemar is None


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 0), (3, 9), (40, 20), (700, 650)])
def test_mcnemar_is_the_binomial_test_of_the_flipped_items(won, lost):
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)
    tail = sum(math.comb(won + lost, count) for count in range(min(won, lost) + 1))
    assert mcnemar(won, lost) == min(1.0, 2 * tail / 2 ** (won + lost))  # to the last bit


def test_mcnemar_of_a_hundred_thousand_items_ends():
    """With a coefficient of 40,000 flips made anew for each count it would take ten minutes."""
    expected = stats.binomtest(19_700, 40_000).pvalue
    assert mcnemar(19_700, 20_300) == pytest.approx(expected, rel=1e-9)


def test_few_flips_are_noise_even_where_the_bootstrap_finds_them():
    found = compared(([0.0] * 4 + [1.0] * 40, [1.0] * 44))
    assert found.p < 0.05 < found.mcnemar == pytest.approx(0.125)
    assert not found.is_distinguishable
    assert compared(([0.0] * 9 + [1.0] * 40, [1.0] * 49)).is_distinguishable


def test_few_flips_of_several_tasks_are_noise_too():
    """4 of 40 items won, in two tasks: the signs of four changes are alike in one case of eight."""
    task = [0.0] * 2 + [1.0] * 18, [1.0] * 20
    found = compared(task, task)
    assert found.p < 0.05
    assert found.mcnemar is None
    assert found.sign_flip == pytest.approx(0.125, abs=0.02)
    assert not found.is_distinguishable


def test_the_sign_flip_test_is_mcnemars_of_one_accuracy():
    before, after = answers(300)
    found = compared((before, after))
    assert found.sign_flip == pytest.approx(found.mcnemar, abs=0.01)


def test_of_graded_scores_the_sign_flip_test_counts_all_signs():
    """Those as far out as what was measured among them, whatever the order of the sum."""
    losses = numpy.array([0.1, 0.2, 0.3, 0.7, 0.7, 2.0])
    signs = numpy.array(list(itertools.product([1, -1], repeat=6)))
    for change in (-losses, losses, losses * [-1, -1, -1, 1, 1, 1]):
        as_far = abs(signs @ losses) > abs(change.sum()) - 1e-9
        found = compared((numpy.ones(6), 1 + change))
        assert found.sign_flip == pytest.approx(as_far.mean(), abs=0.01)


def test_a_single_item_is_no_sample():
    found = compared(([0.0], [1.0]))
    assert not found.is_distinguishable
    assert (found.low, found.high) == (0, 2)
    graded = compared(([0.2], [0.9]), answers(400))
    assert not graded.is_distinguishable
    assert graded.high - graded.low > 1
    # Beyond 0 to 1 it is as far as the two scores lie apart.
    large = compared(([0.5], [1.5]))
    assert (large.low, large.high) == (0, 2)
    larger = compared(([0.5], [4.5]))
    assert (larger.low, larger.high) == (0, 8)
    small = compared(([1.0], [1.75]))
    assert (small.low, small.high) == (0, 1.5)


def test_items_that_all_changed_alike_leave_the_error_of_one_more_that_does_not():
    before, _ = answers(50)
    same = compared((before, before))
    stderr = 1 / math.sqrt(50 * 49)
    assert (same.low, same.high) == pytest.approx((-1.96 * stderr, 1.96 * stderr), rel=1e-4)
    assert compared(([1, 0], [1, 0])).high == pytest.approx(1.96 / math.sqrt(2), rel=1e-4)
    won = compared((numpy.zeros(50), numpy.ones(50)))
    assert (won.low, won.high) == pytest.approx((1 + same.low, 1 + same.high))
    # Of two tasks each has half the weight, and errors of both add up as variances.
    both = compared((before, before), (before, before))
    assert both.high == pytest.approx(same.high / math.sqrt(2))
    beside = compared((before, before), answers(400))
    alone = compared(answers(400))
    assert beside.high == pytest.approx((alone.high + same.high) / 2, rel=0.1)


def test_equal_answers_differ_by_nothing():
    before, _ = answers(50)
    found = compared((before, before))
    assert (found.difference, found.p) == (0, 1)
    assert (found.won, found.lost, found.mcnemar) == (0, 0, 1)
    opposite = compared(([0.0] * 3, [1.0] * 3), ([1.0] * 3, [0.0] * 3))
    assert (opposite.difference, opposite.p) == (0, 1)
    # But for rounding: 0.1 + 0.2 is not 0.3.
    rounded = compared(*(([0.0] * 3, [change] * 3) for change in (0.1, 0.2, -0.3)))
    assert (round(rounded.difference, 12), rounded.p, rounded.sign_flip) == (0, 1, 1)


def runs():
    before, after = answers(120)
    one = scored("base", domain=before[:80], tasks={"a": before[:60], "b": before[60:]})
    other = scored("sft", domain=after[:80], tasks={"a": after[:60], "b": after[60:]})
    return one, other


@pytest.mark.parametrize("part", ["domain", "general", "general/a"])
def test_the_order_of_the_items_and_tasks_means_nothing(part):
    one, other = runs()
    expected = difference(one, other, part)
    shuffled = copy.deepcopy(other)
    tasks = shuffled["general"]["tasks"]
    shuffled["general"]["tasks"] = dict(reversed(tasks.items()))
    for section in (shuffled["domain"], *tasks.values()):
        section["items"] = dict(reversed(section["items"].items()))
    assert difference(one, shuffled, part) == expected
    swapped = difference(other, one, part)
    assert (swapped.difference, swapped.won) == (-expected.difference, expected.lost)
    scores = [section_of(run, part)["score"] for run in (one, other)]
    assert expected.difference == pytest.approx(scores[1] - scores[0])


def test_other_items_are_refused_and_never_cut_to_those_in_common():
    one, other = runs()
    del other["domain"]["items"]["7"]
    with pytest.raises(UnpairedError, match="other items: 80 and 79, 79 in common"):
        difference(one, other, "domain")
    assert compare_part(one, other, "domain") is None
    del other["general"]["tasks"]["b"]
    with pytest.raises(UnpairedError, match="of the tasks a, b and of a"):
        difference(one, other, "general")


def test_the_same_ids_of_other_rows_are_refused():
    one, other = runs()
    one["domain"]["items_hash"], other["domain"]["items_hash"] = "aa", "bb"
    assert compare_part(one, other, "domain") is None
    assert not measured_alike(one, other, "domain")
    assert compare_part(one, other, "general") is not None
    other["general"]["tasks"]["a"]["items_hash"] = "cc"
    with pytest.raises(UnpairedError, match="general/a was scored on other items"):
        difference(one, other, "general")


@pytest.mark.parametrize(
    ("part", "key"), [("domain", "scorer"), ("domain", "answer_by"), ("general", "limit")]
)
def test_scores_that_were_measured_otherwise_are_refused(part, key):
    one, other = runs()
    other[part][key] = "other"
    with pytest.raises(UnpairedError, match=f"{key}=other"):
        difference(one, other, part)


@pytest.mark.parametrize(("part", "key"), [("domain", "definition"), ("general", "chat_template")])
def test_what_earlier_versions_did_not_record_is_not_compared(part, key):
    one, other = runs()
    one[part][key] = "this"
    assert difference(one, other, part) == difference(*runs(), part)
    other[part][key] = "that"
    with pytest.raises(UnpairedError, match="this"):
        difference(one, other, part)


def test_of_two_datasets_the_general_score_alone_is_compared():
    one, other = runs()
    other["run"]["dataset"] = "esci"
    with pytest.raises(UnpairedError, match="domain is medcalc and esci"):
        difference(one, other, "domain")
    assert difference(one, other, "general") == difference(*runs(), "general")


def test_a_score_that_is_not_the_mean_of_its_items_is_not_paired():
    one, other = runs()
    other["domain"]["score"] += 1e-6
    with pytest.raises(UnpairedError, match="domain is not the mean of its items"):
        difference(one, other, "domain")
    other["domain"]["score"] = None
    with pytest.raises(UnpairedError, match="a score of domain is not a number"):
        difference(one, other, "domain")
    one["domain"]["items"] = other["domain"]["items"] = {}
    with pytest.raises(UnpairedError, match="there are no items"):
        difference(one, other, "domain")


def test_items_of_a_task_that_was_scored_otherwise_are_not_paired():
    one, other = runs()
    assert paired_items(one, other, "general/a")["3"] == (
        one["general"]["tasks"]["a"]["items"]["3"],
        other["general"]["tasks"]["a"]["items"]["3"],
    )
    other["general"]["tasks"]["a"]["metric"] = "other"
    with pytest.raises(UnpairedError, match="metric=other"):
        paired_items(one, other, "general/a")


def test_results_without_items_are_not_paired():
    one, other = results("base"), results("sft")
    with pytest.raises(UnpairedError, match="items of domain are not in"):
        difference(one, other, "domain")
    assert compare_part(one, other, "general") is None
    assert compare_part(one, results("sft", general=None), "general") is None
