"""Methods at an equal domain score: straight curves have a formula, and errors one by hand."""

from types import SimpleNamespace

import numpy
import pytest
from scipy import stats
from synthetic_study import results, scored

from talr_cli.report.tables.cells import as_markdown
from talr_cli.report.tables.matched import matched_cells
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.matched import (
    DRAWS,
    GAIN_SHARE,
    REFERENCE,
    _compare,
    _Draws,
    _Meeting,
    bend_bound,
    general_at,
    headline,
    matched,
)
from talr_cli.statistics.seeds import seed_groups
from talr_cli.statistics.settings import scores_of

RATES = (1e-6, 5e-6, 2e-5)
BASE = (0.2, 0.7)


def run(method, lr, scores, seed=0, n=400, share=1.0):
    difficulty = (numpy.arange(n) + 0.5) / n
    domain, general = (difficulty < score for score in scores)
    one = scored(method, domain, {"a": general}, lr=lr, seed=seed, id=f"{method}{lr}{seed}{share}")
    if share < 1:
        one["weights"]["taken"] = {"at": share, "of": f"{method}{lr}{seed}"}
    return one


def straight(method, slope, gains, seeds=2, n=400, spread=0.0, draw=None, rates=RATES):
    """Loses `slope` of the general score for each point that the domain gains."""
    runs = []
    for lr, gain in zip(rates, gains, strict=False):
        for seed in range(seeds):
            shift = spread * draw.normal(size=2) if spread else (0.0, 0.0)
            true = BASE[0] + gain + shift[0], BASE[1] - slope * gain + shift[1]
            runs.append(run(method, lr, true, seed, n))
    return runs


def cells_of(groups):
    return matched_cells([(group, matched(group)) for group in groups])


def found(*runs):
    (group,) = comparable([run("base", None, BASE), *runs])
    return matched(group)


def test_straight_curves_differ_by_their_slopes_whatever_their_rates_gain():
    """The method's rates gain less each: at one rate it would seem to forget far less."""
    (one,) = found(*straight("sft", 0.5, (0.2, 0.3, 0.4)), *straight("talr", 0.4, (0.1, 0.2, 0.3)))
    gain = GAIN_SHARE * 0.3
    assert one.domain == pytest.approx(0.2 + gain)
    assert one.reference == pytest.approx(0.7 - 0.5 * gain, abs=0.003)
    assert one.difference == pytest.approx(0.1 * gain, abs=0.003)
    assert one.curves == "3 rates"


def test_a_rate_that_one_of_two_methods_lacks_is_on_neither_curve():
    """It is known more closely nowhere: sft's middle rate, where it loses most, says nothing."""
    rates = (1e-6, 2e-5)
    runs = straight("sft", 0.5, (0.2, 0.4), rates=rates)
    runs += straight("talr", 0.3, (0.2, 0.4), rates=rates)
    (one,) = found(*runs, *(run("sft", 5e-6, (0.45, 0.2), seed) for seed in (0, 1)))
    gain = GAIN_SHARE * 0.4
    assert one.reference == pytest.approx(0.7 - 0.5 * gain, abs=0.003)
    assert one.general == pytest.approx(0.7 - 0.3 * gain, abs=0.003)
    assert one.curves == "2 rates"


def test_a_method_that_only_learns_less_is_not_said_to_forget_less():
    runs = [*straight("sft", 0.5, (0.2, 0.3, 0.4)), *straight("talr", 0.5, (0.1, 0.2, 0.3))]
    (one,) = found(*runs)
    assert one.difference == pytest.approx(0, abs=0.003)
    assert one.verdict == "not distinguishable"
    ((*_, p, _, _),) = cells_of(comparable([run("base", None, BASE), *runs])).rows
    assert float(p.text) == pytest.approx(one.p, abs=5e-4)


def test_general_at_agrees_with_numpys_interpolation():
    draw = numpy.random.default_rng(0)
    domain = numpy.cumsum(draw.random((50, 4)), axis=1)
    general = draw.random((50, 4))
    expected = [
        numpy.interp(0.5, row - row[0], values) for row, values in zip(domain, general, strict=True)
    ]
    assert general_at(domain, general, 0.5) == pytest.approx(expected)


def test_a_curve_that_turns_counts_where_it_first_arrives():
    domain = numpy.array([[0.2, 0.6, 0.3, 0.7]])
    general = numpy.array([[0.7, 0.6, 0.2, 0.1]])
    assert general_at(domain, general, 0.2) == pytest.approx(0.65)
    assert general_at(domain, general, 0.9) == pytest.approx(0.1)  # never: at the most it gains


def test_a_parabola_that_does_not_turn_is_within_the_bend():
    """Flat at one end or the other it is as far off the line as any."""
    domain = numpy.array([[0.2, 0.5, 0.6]])
    for gain in (0.06, 0.15, 0.27):
        share = gain / 0.3
        line = 0.7 - 0.1 * share
        for curve in (0.7 - 0.1 * share**2, 0.6 + 0.1 * (1 - share) ** 2):
            off = abs(curve - line)
            general = numpy.array([[0.7, 0.6, 0.1]])
            assert bend_bound(domain, general, gain) == pytest.approx(off)
    assert bend_bound(domain, numpy.array([[0.7, 0.6, 0.1]]), 0.5) == 0  # never gains so much


def test_runs_that_lie_closer_on_the_same_curve_do_not_forget_less():
    """Most is lost at the end: sft's straight line from the base model cuts the corner."""

    def of_curve(method, gains):
        true = [(0.2 + gain, 0.7 - 2 * gain**2) for gain in gains]
        return [
            run(method, lr, scores, seed, 4000)
            for lr, scores in zip(RATES, true, strict=True)
            for seed in (0, 1)
        ]

    runs = [*of_curve("sft", (0.3, 0.33, 0.35)), *of_curve("talr", (0.15, 0.3, 0.34))]
    (group,) = comparable([run("base", None, BASE, n=4000), *runs])
    (one,) = matched(group)
    assert one.difference > 0.01  # by straight lines
    assert one.low < 0 < one.high
    assert one.verdict == "not distinguishable"


def test_the_points_of_a_training_deviate_together():
    draw = numpy.random.default_rng(3)
    runs = straight("sft", 0.5, (0.2, 0.4), 3, 4000, 0.05, draw)
    runs += [
        run("sft", 5e-6, (0.3 + shift, 0.65), seed, 4000, share=0.5)
        for seed, shift in enumerate((0, 0.05, -0.05))
    ]
    runs.append(run("talr", 1e-6, (0.4, 0.6), 0, 4000))
    settings = {f"{one.label} {one.lr} @{one.share}": one for one in seed_groups(runs)}
    scores = scores_of(settings, run("base", None, BASE, n=4000), runs)
    drawn = _Draws.of(scores)
    point, end, other, alone = (
        drawn.domain[1:, scores.index[name]]
        for name in ("sft 5e-06 @0.5", "sft 5e-06 @1.0", "sft 1e-06 @1.0", "talr 1e-06 @1.0")
    )
    assert numpy.corrcoef(point, end)[0, 1] > 0.9
    assert abs(numpy.corrcoef(other, end)[0, 1]) < 0.3
    # A single run lies as far off as a run, the mean of three by the root of three less.
    assert alone.std() / end.std() == pytest.approx(3**0.5, rel=0.1)


def test_a_verdict_is_given_where_the_interval_leaves_zero_out_and_pays_for_all_methods():
    few = [*straight("sft", 0.5, (0.2, 0.4)), *straight("talr", 0.3, (0.2, 0.4))]
    others = [
        one for name in ("l2", "flow", "dft", "eaft") for one in straight(name, 0.5, (0.2, 0.4))
    ]
    half = {}
    for runs in (few, few + others):
        (group,) = comparable([run("base", None, BASE), *runs])
        told = matched(group)
        for one in told:
            assert (one.low <= 0 <= one.high) == (one.verdict == "not distinguishable")
        (talr,) = (one for one in told if one.method == "talr")
        half[len(told)] = (talr.high - talr.low) / 2 - 0.1 * 0.5 * 0.5  # less what bends
    assert half[5] / half[1] == pytest.approx(2.576 / 1.96, rel=0.1)  # a fifth of the level each


def test_p_and_the_interval_are_those_of_two_sides_of_so_many_methods():
    """Of two methods and a normal error, beside what the interpolation may be off."""
    places = (numpy.arange(DRAWS) + 0.5) / DRAWS
    differences = 2.6 + stats.norm.ppf(places)
    where = _Meeting(0.1, 0.5, {REFERENCE: {"rates": [0]}, "talr": {"rates": [1]}}, "2 rates")
    for sign in (1, -1):
        more = {0: 0.0, 1: sign * numpy.concatenate([[2.6], differences])}

        def at(gain, curves, more=more):
            ((curve,),) = curves
            return numpy.full(DRAWS + 1, 0.6) + more[curve], 0.2 * curve

        one = _compare("talr", where, SimpleNamespace(at=at, over_runs=True), 2)
        assert (one.general, one.reference) == (0.6 + sign * 2.6, 0.6)
        low, high = sorted((sign * (2.6 - 2.2414 - 0.2), sign * (2.6 + 2.2414 + 0.2)))
        assert (one.low, one.high) == pytest.approx((low, high), abs=0.01)
        assert one.p == pytest.approx(2 * 2 * stats.norm.sf(2.6 - 0.2), rel=0.05)
        assert one.verdict == ("forgets less" if sign > 0 else "forgets more")


def test_the_interval_has_the_runs_and_the_items_in_it():
    """Two rates on a straight line: the delta method, the error of both scores along the line."""
    draw = numpy.random.default_rng(4)
    gains, spread, seeds, n = (0.2, 0.4), 0.03, 6, 1000
    runs = straight("sft", 0.5, gains, seeds, n, spread, draw)
    runs += straight("talr", 0.3, gains, seeds, n, spread, draw)
    (group,) = comparable([run("base", None, BASE, n=n), *runs])
    (one,) = matched(group)
    # Halfway between two settings of six runs each: weights of a half, of both scores.
    gain = one.domain - BASE[0]
    share = (gain - 0.2) / 0.2
    weights = share**2 + (1 - share) ** 2
    of_runs = spread**2 / seeds * weights * (1 + 0.5**2 + 1 + 0.3**2)
    half = (one.high - one.low) / 2
    bend = 0.5 * 0.2 * share * (1 - share)
    assert half == pytest.approx(1.96 * of_runs**0.5 + bend, rel=0.25)
    assert one.over_runs


def test_one_seed_leaves_the_verdict_undecided():
    runs = [*straight("sft", 0.5, (0.2, 0.3), 1), *straight("talr", 0.1, (0.2, 0.3), 1)]
    (one,) = found(*runs)
    assert one.verdict == "undecided: one seed"
    assert "undecided: one seed" in headline([one])


def test_points_along_a_training_are_a_curve_too():
    runs = [*straight("sft", 0.5, (0.2, 0.4)), *straight("talr", 0.2, (0.2, 0.4))]
    for method, slope in (("sft", 0.5), ("talr", 0.2)):
        runs += [run(method, 5e-6, (0.3, 0.7 - slope * 0.1), seed, share=0.5) for seed in (0, 1)]
    (one,) = found(*runs)
    assert one.curves == "2 rates, 2 points of 5e-6"
    assert one.difference == pytest.approx(0.3 * GAIN_SHARE * 0.4, abs=0.005)
    assert one.verdict == "forgets less"


def path(method, lr, slope, gains, seeds=2):
    """As `straight`, along one training; the last gain is that of its end."""
    shares = [(place + 1) / len(gains) for place in range(len(gains))]
    return [
        run(method, lr, (BASE[0] + gain, BASE[1] - slope * gain), seed, share=share)
        for share, gain in zip(shares, gains, strict=True)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("shared", [(), (5e-6,)], ids=["none", "one"])
def test_methods_that_share_no_two_rates_go_along_their_own(shared):
    """As adapters do, which want ten times the rates of full fine-tuning."""
    runs = straight("sft", 0.5, (0.1, 0.2, 0.4))
    own = (*shared, 1e-4, 2e-4)
    runs += straight("lora", 0.2, (0.1, 0.2, 0.3)[-len(own) :], rates=own)
    (one,) = found(*runs)
    gain = GAIN_SHARE * 0.3
    assert one.domain == pytest.approx(0.2 + gain)
    assert one.general == pytest.approx(0.7 - 0.2 * gain, abs=0.003)
    assert one.reference == pytest.approx(0.7 - 0.5 * gain, abs=0.003)
    assert one.curves == f"{len(own)} rates; of sft 3 rates"
    assert one.verdict == "forgets less"


def test_one_rate_of_each_is_enough_where_there_are_points_along_it():
    """Either path is straight; they gain the same at other shares of the steps."""
    runs = path("sft", 1e-6, 0.5, (0.1, 0.2, 0.4)) + path("finch", 5e-6, 0.3, (0.05, 0.3))
    (one,) = found(*runs)
    assert one.domain == pytest.approx(0.2 + GAIN_SHARE * 0.3)
    assert one.difference == pytest.approx(0.2 * GAIN_SHARE * 0.3, abs=0.004)
    assert one.curves == "2 points of 5e-6; of sft 3 points of 1e-6"
    ends = [one for one in runs if "taken" not in one["weights"]]
    assert found(*ends) == []


def test_a_path_that_gains_too_little_is_no_part_of_the_mean():
    """Of the small rate nothing reaches the gain; its last point is not taken in its place."""
    runs = path("sft", 1e-6, 0.5, (0.02, 0.05)) + path("sft", 2e-5, 0.5, (0.2, 0.4))
    runs += path("lora", 1e-4, 0.2, (0.2, 0.4))
    (one,) = found(*runs)
    assert one.curves == "2 points of 1e-4; of sft 2 rates, 2 points of 2e-5"
    assert one.reference == pytest.approx(0.7 - 0.5 * GAIN_SHARE * 0.4, abs=0.003)


def test_a_path_that_one_of_two_methods_does_not_go_far_enough_is_of_neither():
    rates = (1e-6, 2e-5)
    runs = straight("sft", 0.5, (0.35, 0.4), rates=rates)
    runs += straight("talr", 0.3, (0.1, 0.4), rates=rates)
    for seed in (0, 1):
        runs.append(run("sft", 1e-6, (0.4, 0.5), seed, share=0.5))  # off the straight line
        runs.append(run("talr", 1e-6, (0.25, 0.685), seed, share=0.5))
    (one,) = found(*runs)
    assert one.curves == "2 rates"
    assert one.difference == pytest.approx(0.2 * GAIN_SHARE * 0.4, abs=0.003)


def test_the_table_names_each_method_and_the_headline_the_best():
    runs = straight("sft", 0.5, (0.2, 0.3, 0.4))
    for method, slope in (("l2", 0.6), ("talr", 0.1)):
        runs += straight(method, slope, (0.2, 0.3, 0.4))
    groups = comparable([run("base", None, BASE), *runs])
    lines = as_markdown(cells_of(groups)).splitlines()
    assert lines[2].startswith("| talr | 0.500 |")
    assert "forgets less" in lines[2]
    assert lines[3].startswith("| l2 | 0.500 |")
    told = headline(matched(groups[0]))
    assert told.startswith("at an equal domain score (0.500) talr keeps +0.12")
    assert told.endswith("forgets less: talr; forgets more: l2")


def test_without_rates_a_base_or_a_gain_there_is_nothing():
    one_rate = [*straight("sft", 0.5, (0.2,)), *straight("talr", 0.5, (0.2,))]
    assert found(*one_rate) == []
    (group,) = comparable(straight("sft", 0.5, (0.2, 0.3)) + straight("talr", 0.5, (0.2, 0.3)))
    assert matched(group) == []
    none = [*straight("sft", 0.5, (0.0, 0.0)), *straight("talr", 0.5, (0.2, 0.3))]
    assert found(*none) == []
    no_items = [results("base"), results("sft"), results("sft", lr=1e-5), results("talr")]
    assert cells_of(comparable(no_items)) is None
    assert headline([]) == ""
