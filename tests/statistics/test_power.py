"""The smallest difference against studies that are drawn, and against the formula for large n."""

import math

import numpy
import pytest
from scipy import stats
from synthetic_study import results, scored

from talr_cli.statistics.paired import mcnemar, paired_difference
from talr_cli.statistics.power import detectable_difference, detectable_difference_of, power_text


@pytest.mark.parametrize(
    ("score", "n"), [(0.1, 300), (0.4, 150), (0.65, 400), (0.26, 72), (0.5, 24), (0.05, 48)]
)
def test_the_detectable_difference_is_seen_in_80_of_100_studies(score, n):
    """Pairs of answers with the correlation that is assumed, judged as `talr compare` does."""
    size = detectable_difference([(score, n)])
    after = score + size if score <= 0.5 else score - size
    joint = score * after + 0.5 * math.sqrt(score * (1 - score) * after * (1 - after))
    joint = min(joint, score, after)  # where so strong a correlation cannot be
    cells = [joint, score - joint, after - joint, 1 - score - after + joint]
    draw = numpy.random.default_rng(0).multinomial(n, cells, size=4000)
    seen = [mcnemar(int(won), int(lost)) < 0.05 for _, lost, won, _ in draw]
    assert numpy.mean(seen) == pytest.approx(0.8, abs=0.02)


def test_the_detectable_difference_of_a_mean_is_seen_in_80_of_100_studies():
    """By the error of the mean of two tasks."""
    tasks = [(0.3, 120), (0.5, 60)]
    size, draw = detectable_difference(tasks), numpy.random.default_rng(0)
    mean, variance = numpy.zeros(4000), numpy.zeros(4000)
    for score, n in tasks:
        after = score + size
        joint = score * after + 0.5 * math.sqrt(score * (1 - score) * after * (1 - after))
        cells = [joint, score - joint, after - joint, 1 - score - after + joint]
        _, lost, won, _ = draw.multinomial(n, cells, size=4000).T
        change = (won - lost) / n
        mean += change / 2
        variance += (won + lost - n * change**2) / (n - 1) / n / 4
    assert numpy.mean(abs(mean) / numpy.sqrt(variance) > 1.96) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("spread", "n"), [(0.05, 40), (0.4, 150)])
def test_partial_credit_has_the_error_of_its_own_items(spread, n):
    """Of scores near their mean far less is seen than if they were all right or wrong."""
    draw, p = numpy.random.default_rng(0), 0.4
    graded = p + math.sqrt(p * (1 - p) * spread) * numpy.array([-1, 1] * (n // 2))
    base = scored("base", graded, {"a": [1, 0] * 30, "b": [0.4, 0.6] * 30})
    size = detectable_difference_of(base["domain"])
    assert size < 1.1 * math.sqrt(spread) * detectable_difference([(p, n)])
    variances = [spread * one * (1 - one) for one in (p, p + size)]
    deviation = math.sqrt(sum(variances) - math.sqrt(math.prod(variances)))
    change = draw.normal(size, deviation, (4000, n))
    found = stats.ttest_1samp(change, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    of_two = detectable_difference([(0.5, 60), (0.5, 60)], [1.0, 0.04])
    assert detectable_difference_of(base["general"]) == pytest.approx(of_two)


@pytest.mark.parametrize("n", [7, 12, 24, 72, 343])
def test_at_a_score_of_0_the_exact_test_sees_the_difference_in_80_of_100_studies(n):
    """Nothing is lost there: an item flips with the change's probability, and six are enough."""
    size = detectable_difference([(0.0, n)])
    assert size == pytest.approx(detectable_difference([(1.0, n)]))
    flipped = numpy.random.default_rng(0).binomial(n, size, 20_000)
    seen = [stats.binomtest(0, int(one)).pvalue < 0.05 for one in range(n + 1) if one]
    power = numpy.array([False, *seen])[flipped].mean()
    assert power == pytest.approx(0.8, abs=0.01)
    assert detectable_difference([(0.0, 5)]) is None


def test_many_items_have_the_normal_formula():
    n = 10**6
    variance = 2 * 0.3 * 0.7 * 0.5
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * math.sqrt(variance / n)
    assert detectable_difference([(0.3, n)]) == pytest.approx(expected, rel=0.01)
    four = detectable_difference([(0.3, n)] * 4)
    assert four == pytest.approx(expected / 2, rel=0.01)


def test_more_items_show_less_and_a_handful_nothing():
    sizes = [detectable_difference([(0.2, n)]) for n in (20, 72, 343, 1047)]
    assert sizes == sorted(sizes, reverse=True)
    assert detectable_difference([(0.5, 3)]) is None
    assert detectable_difference([(0.0, 100)]) > 0.05  # items that turn right are noise too


@pytest.mark.parametrize("sizes", [(2, 3), (1, 40), (1, 1), (2, 2, 1)])
def test_of_several_tasks_too_few_items_show_nothing_as_in_a_comparison(sizes):
    """Not even all items won are told from none."""
    assert detectable_difference([(0.0, n) for n in sizes]) is None
    assert not paired_difference([[(0.0, 1.0)] * n for n in sizes]).is_distinguishable


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4)])
def test_six_items_of_several_tasks_can_show_something(sizes):
    assert detectable_difference([(0.0, n) for n in sizes]) is not None
    assert paired_difference([[(0.0, 1.0)] * n for n in sizes]).is_distinguishable


@pytest.mark.parametrize(
    "tasks",
    [
        [(0.0, 2), (0.0, 2)],
        [(0.0, 6)],
        [(0.0, 4), (1.0, 4), (0.5, 2)],
        *([(score, n)] for score in (0.0, 0.17, 0.5, 0.83, 1.0) for n in (1, 2, 6, 24)),
    ],
)
def test_the_detectable_difference_is_found_or_none_whatever_the_scores(tasks):
    """The change that is found is just as large as its own error asks for."""
    size = detectable_difference(tasks)
    if size is not None:
        assert 0 < size <= 1
        assert detectable_difference([(score, 4 * n) for score, n in tasks]) < size


@pytest.mark.parametrize("tasks", [[(0.1, 40)], [(0.05, 20), (0.1, 30)], [(0.3, 9000)]])
def test_the_detectable_difference_is_as_large_above_a_half_as_below(tasks):
    above = [(1 - score, n) for score, n in tasks]
    assert detectable_difference(above) == pytest.approx(detectable_difference(tasks))


def test_of_many_tasks_that_are_all_wrong_one_item_of_each_is_enough():
    """1.96 + 0.84 standard errors of nine tasks are less than that."""
    assert detectable_difference([(0.0, 10)] * 9) == 0.1


def test_each_part_of_a_base_model_has_a_detectable_difference():
    base = scored("base", [1, 0] * 36, {"a": [1] * 30 + [0] * 30, "b": [1, 0, 0] * 20})
    assert detectable_difference_of(base["domain"]) == detectable_difference([(0.5, 72)])
    general = detectable_difference_of(base["general"])
    assert general == detectable_difference([(0.5, 60), (1 / 3, 60)])
    assert f"{general:.3f} of the general score (120 items)" in power_text(base)
    for right in range(1, 9):  # their variance is p (1 - p) but for rounding
        base = scored("base", [1] * right + [0] * (9 - right), {"a": [1, 0]})
        assert detectable_difference_of(base["domain"]) == detectable_difference([(right / 9, 9)])


def test_partial_credit_that_is_equal_for_all_items_does_not_show_everything():
    base = scored("base", [0.4] * 50, {"a": [0.3] * 40, "b": [1, 0] * 30})
    assert detectable_difference_of(base["domain"]) == detectable_difference([(0.4, 50)])
    of_two = detectable_difference([(0.3, 40), (0.5, 60)])
    assert detectable_difference_of(base["general"]) == pytest.approx(of_two)


def test_a_score_that_is_no_accuracy_has_no_detectable_difference():
    base = results("base", domain=(12.5, 1.0), general=None)
    assert detectable_difference_of(base["domain"]) is None
    assert power_text(base) == ""
