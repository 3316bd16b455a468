"""Errors over runs and items: against a bootstrap over both, against coverage, and their limits."""

import copy
import math

import numpy
import pytest
from scipy import stats
from synthetic_study import scored

from talr_cli.statistics.contrasts import (
    Contrast,
    bonferroni,
    holm,
    intersection_union,
    partial_conjunction,
)
from talr_cli.statistics.paired import difference
from talr_cli.statistics.seeds import SeedGroup, final_settings
from talr_cli.statistics.settings import run_variances, scores_of


def right(draw, easy, score):
    """Answers with a given expected score: an item that is easy is so for every run."""
    latent = 0.7**0.5 * easy + 0.3**0.5 * draw.normal(size=len(easy))
    return latent < stats.norm.ppf(score)


def study(seed, seeds, spread, methods=("one", "two"), score=0.5, sizes=(90, 60, 40)):
    """Runs of settings with the same true score, and the base model."""
    draw = numpy.random.default_rng(seed)
    easy = [draw.normal(size=n) for n in sizes]

    def run(method, number):
        domain, general = score + spread * draw.normal(size=2)
        answers = right(draw, easy[0], domain), *(right(draw, e, general) for e in easy[1:])
        tasks = {"a": answers[1], "b": answers[2]}
        return scored(method, answers[0], tasks, seed=number, id=f"{method}{number}")

    runs = [run(method, number) for method in methods for number in range(seeds)]
    base = scored("base", *(right(draw, easy[0], 0.4), {"a": easy[1] < 0, "b": easy[2] < 0}))
    return runs, base


def scores(runs, base=None):
    return scores_of({one.label: one for one in final_settings(runs)}, base, runs)


@pytest.mark.parametrize("part", ["domain", "general", "both"])
def test_the_error_is_that_of_a_bootstrap_over_seeds_then_items(part):
    runs, _ = study(1, 12, 0.06)
    found = scores(runs).contrast(part, {"two": 1, "one": -1})
    draw = numpy.random.default_rng(0)

    def answers(method, task):
        own = [one for one in runs if one["run"]["method"] == method]
        sections = [one["domain"] if task == "d" else one["general"]["tasks"][task] for one in own]
        return numpy.array([list(section["items"].values()) for section in sections])

    weight = {"domain": {"d": 1}, "general": {"a": 0.5, "b": 0.5}}
    weight["both"] = {"d": 0.5, "a": 0.25, "b": 0.25}
    tables = {(m, t): answers(m, t) for m in ("one", "two") for t in weight[part]}
    resampled = []
    for _ in range(4000):
        chosen = {method: draw.integers(0, 12, 12) for method in ("one", "two")}
        total = 0.0
        for task, share in weight[part].items():
            n = tables["one", task].shape[1]
            items = draw.integers(0, n, n)
            one, two = (tables[m, task][chosen[m]][:, items].mean() for m in ("one", "two"))
            total += share * (two - one)
        resampled.append(total)
    assert found.estimate == pytest.approx(
        sum(
            w * (tables["two", t].mean() - tables["one", t].mean()) for t, w in weight[part].items()
        )
    )
    assert found.standard_error == pytest.approx(numpy.std(resampled), rel=0.1)


def test_over_items_alone_the_error_is_that_of_the_paired_difference():
    """With one more item of each task, on which the two disagree."""
    runs, _ = study(4, 1, 0.05)
    found = scores(runs)
    errors = {part: difference(*runs, part).stderr for part in ("domain", "general")}
    errors["both"] = math.hypot(*errors.values()) / 2
    more = {"domain": 1 / 90 / 89, "general": (1 / 60 / 59 + 1 / 40 / 39) / 4}
    more["both"] = sum(more.values()) / 4
    for part, error in errors.items():
        items = found.contrast(part, {"two": 1, "one": -1}).item_variance
        assert items == pytest.approx(error**2 + more[part])


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.0), (2, 0.06), (3, 0.03)])
def test_intervals_of_methods_cover_no_difference(seeds, spread):
    """Few seeds: the case in which a bootstrap of runs is too sure."""
    missed = 0
    for number in range(200):
        runs, _ = study(number, seeds, spread)
        low, high = scores(runs).contrast("both", {"two": 1, "one": -1}).interval()
        missed += not low <= 0 <= high
    assert missed / 200 <= 0.05


def test_scores_out_of_a_hundred_have_a_hundred_times_the_error():
    runs, _ = study(4, 2, 0.05)
    found = scores(runs).contrast("both", {"two": 1, "one": -1})
    for one in runs:
        for section in (one["domain"], one["general"], *one["general"]["tasks"].values()):
            section["score"] *= 100
            section["items"] = {key: 100 * own for key, own in section.get("items", {}).items()}
    hundred = scores(runs).contrast("both", {"two": 1, "one": -1})
    assert hundred.estimate == pytest.approx(100 * found.estimate)
    assert hundred.item_variance == pytest.approx(100**2 * found.item_variance)
    assert hundred.run_variance == pytest.approx(100**2 * found.run_variance)


def test_a_base_model_is_no_sample_of_runs():
    runs, base = study(3, 3, 0.05)
    found = scores(runs, base)
    alone = found.contrast("domain", {"one": 1, "base": -1})
    assert alone.run_variance == pytest.approx(found.run_variances["domain"].variance / 3)
    mix = found.contrast("domain", {"one": 0.5, "two": 0.5, "base": -1})
    assert mix.run_variance == pytest.approx(found.run_variances["domain"].variance * 0.5 / 3)


def test_one_seed_speaks_of_checkpoints_and_has_no_p():
    runs, base = study(4, 1, 0.05)
    found = scores(runs, base).contrast("domain", {"one": 1, "base": -1})
    assert found.run_variance is None
    assert found.p_greater() == found.p_less() == 1
    assert "of these checkpoints" in found.text()
    low, high = found.interval()
    assert low < found.estimate < high


def test_a_pooled_deviation_is_the_mean_of_the_variances_and_says_whose():
    runs, _ = study(5, 3, 0.05)
    found = run_variances(runs, ["general"])["general"]
    by_method = [
        [one["general"]["score"] for one in runs if one["run"]["method"] == method]
        for method in ("one", "two")
    ]
    assert found.variance == pytest.approx(numpy.mean(numpy.var(by_method, axis=1, ddof=1)))
    assert found.df == 4
    assert "of one, two" in found.source
    unscored = {**runs[0], "run": {**runs[0]["run"], "seed": 3, "id": "one3"}, "domain": None}
    both = run_variances([*runs, unscored], ["general", "domain", "both"])
    assert both["general"] == found
    halves = [[(one["domain"]["score"] + one["general"]["score"]) / 2 for one in runs]]
    expected = numpy.var(numpy.reshape(halves, (2, 3)), axis=1, ddof=1).mean()
    assert both["both"].variance == pytest.approx(expected)


def test_settings_without_room_to_deviate_do_not_dilute_the_deviation():
    """All right with every seed: as in a study whose domain is learned at most rates."""
    runs, _ = study(5, 3, 0.05)
    alone = run_variances(runs, ["domain"])["domain"]
    for method in ("three", "four"):
        for seed in range(3):
            one = scored(method, [1] * 90, {"a": [1] * 60, "b": [1] * 40}, seed=seed)
            one["run"]["id"] = f"{method}{seed}"
            runs.append(one)
    found = run_variances(runs, ["domain"])["domain"]
    assert (found.variance, found.df) == (pytest.approx(alone.variance), alone.df)
    assert (
        run_variances(runs[6:], ["domain"])["domain"].variance == 0
    )  # there is nothing else to know it from


def test_rates_that_differ_in_the_last_bit_are_one():
    runs, _ = study(9, 2, 0.03)
    for one in runs:
        one["run"]["lr"] = 1e-5
    runs[1]["run"]["lr"] = math.nextafter(1e-5, 1)
    groups = final_settings(runs)
    assert [(one.label, one.lr, len(one.runs)) for one in groups] == [
        ("one", 1e-5, 2),
        ("two", 1e-5, 2),
    ]


def test_a_single_item_says_nothing_and_equal_answers_not_all():
    draw = numpy.random.default_rng(0)
    rows = draw.random((2, 50)) < 0.5

    def runs(few):
        return [
            scored(
                method, rows[place], {"a": rows[place], "b": few}, seed=seed, id=f"{method}{seed}"
            )
            for place, method in enumerate(("one", "two"))
            for seed in (0, 1)
        ]

    one_item = runs([1, 1])
    for one in one_item:
        one["general"]["tasks"]["b"]["items"] = {"0": 1.0}
    single = scores(one_item)
    assert not single.index
    assert "single item" in single.left_out["two"]
    alike = scores(runs([1] * 4)).contrast("general", {"two": 1, "one": -1})
    alone = scores(runs([1] * 4000)).contrast("general", {"two": 1, "one": -1})
    # As if there were a fifth item, half won and half lost: 1 / n / (n - 1), of a task in two.
    assert alike.item_variance - alone.item_variance == pytest.approx(1 / 4 / 3 / 4, rel=1e-3)
    twice = scores(runs([1] * 4)).contrast("general", {"two": 2, "one": -2})
    assert twice.item_variance == pytest.approx(4 * alike.item_variance)


def test_points_along_trainings_are_asked_where_no_training_was_repeated():
    runs, _ = study(6, 2, 0.05)
    early = [one for one in runs if one["run"]["method"] == "one"]
    for one in early:
        one["weights"]["taken"] = {"at": 0.5, "of": one["run"]["id"]}
    runs = [one for one in runs if one["run"]["method"] == "one" or one["run"]["seed"] == 0]
    found = run_variances(runs, ["domain"])["domain"]
    assert found.df == 1
    assert "points along trainings" in found.source
    sooner = copy.deepcopy(early)  # of a training the last point counts, wherever it stands
    for one, score in zip(sooner, (0.1, 0.9), strict=True):
        one["weights"]["taken"]["at"], one["domain"]["score"] = 0.25, score
    assert run_variances([*runs, *sooner], ["domain"])["domain"] == found


def test_averages_say_nothing_of_the_deviation():
    runs, _ = study(7, 2, 0.05)
    for one in runs:
        one["weights"]["averaged"] = {"alpha": 0.5, "of": one["run"]["id"]}
    assert run_variances(runs, ["domain"])["domain"] is None


def test_a_few_items_that_all_went_one_way_are_not_sure():
    """4 won and 40 alike: McNemar's exact p is 0.125."""
    before, after = [0] * 4 + [1] * 40, [1] * 44
    runs = [
        scored(method, answers, {"a": answers}, seed=seed, id=f"{method}{seed}")
        for method, answers in (("one", before), ("two", after))
        for seed in (0, 1)
    ]
    found = scores(runs).contrast("domain", {"two": 1, "one": -1})
    assert found.p_greater() > 0.025


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        ("domain", lambda old: {"items": None}, "items of domain are not in"),
        (
            "domain",
            lambda old: {"items": {f"other {key}": one for key, one in old["items"].items()}},
            "domain was scored on other items",
        ),
        ("general", lambda old: {"suite": "full"}, "suite=mini and suite=full"),
    ],
)
def test_a_setting_of_other_items_is_left_out_and_said(part, change, why):
    runs, base = study(8, 2, 0.0)
    for one in runs[2:]:
        one[part] |= change(one[part])
    group = {
        "one": SeedGroup("one", 1e-6, 1.0, runs[:2]),
        "two": SeedGroup("two", 1e-6, 1.0, runs[2:]),
    }
    found = scores_of(group, base, runs)
    assert list(found.index) == ["base", "one"]
    assert why in found.left_out["two"]


def test_several_tests_make_one():
    assert intersection_union([0.01, 0.2]) == 0.2
    assert bonferroni([0.01, 0.2]) == pytest.approx(0.02)
    assert bonferroni([0.6, 0.7]) == partial_conjunction(1, [0.6, 0.7]) == 1
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand
    # Of 6 statements 4 hold: the three largest p's are of any three, times 3.
    found = partial_conjunction(4, [0.001, 0.2, 0.002, 0.9, 0.003, 0.004])
    assert found == pytest.approx(3 * 0.004)
    assert partial_conjunction(1, [0.01, 0.2]) == bonferroni([0.01, 0.2])
    assert partial_conjunction(2, [0.01, 0.2]) == intersection_union([0.01, 0.2])


def test_counting_proven_statements_keeps_its_level():
    """Of 6 null statements "at least 4 hold" comes out rarely; 2 true ones change nothing of it."""
    draw = numpy.random.default_rng(0)
    p = draw.uniform(size=(4000, 6))
    p[:, :3] = 0.0  # three hold for sure: the fourth decides
    assert numpy.mean([partial_conjunction(4, row) < 0.05 for row in p]) <= 0.055


@pytest.mark.parametrize("df", [1, 2, 5, 30])
def test_without_items_the_error_is_students_t(df):
    found = Contrast(1.0, 1e-12, 0.04, df, 100)
    low, high = found.interval()
    assert high - 1 == pytest.approx(0.2 * stats.t.ppf(0.975, df), rel=1e-3)
    assert 1 - low == pytest.approx(high - 1)
    for than in (0.9, 0.5, -1.0, -3.0):
        assert found.p_greater(than) == pytest.approx(stats.t.sf((1 - than) / 0.2, df), rel=1e-2)
    assert found.p_less() == pytest.approx(1 - found.p_greater())


def test_without_any_error_a_lead_is_sure():
    found = Contrast(0.1, 0.0, 0.0, 1, 5)
    assert (found.p_greater(), found.p_less(), found.p_greater(0.1)) == (0, 1, 1)
    assert found.interval() == (0.1, 0.1)


def test_the_error_over_items_and_runs_is_a_normal_plus_a_t():
    found = Contrast(0.0, 0.03, 0.02, 3, 100)
    draw = numpy.random.default_rng(0)
    both = 0.03**0.5 * draw.normal(size=400_000) + 0.02**0.5 * draw.standard_t(3, size=400_000)
    for lead in (0.1, 0.4, 0.8):
        assert found.p_less(lead) == pytest.approx(numpy.mean(both > lead), rel=0.05)


def test_the_smallest_difference_is_seen_in_80_of_100_studies():
    items, runs, df = 0.02**2, 0.01**2, 40
    found = Contrast(0, items, runs, df, 100)
    draw = numpy.random.default_rng(1)
    seen = []
    for _ in range(1500):
        estimate = found.detectable() + found.standard_error * draw.normal()
        runs_found = runs * draw.chisquare(df) / df
        seen.append(Contrast(estimate, items, runs_found, df, 100).p_greater() < 0.025)
    assert numpy.mean(seen) == pytest.approx(0.8, abs=0.03)
