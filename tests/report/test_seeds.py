"""Means over seeds against numpy, and runs that are no seeds of each other."""

import csv
import io
import math
import random

import numpy
import pytest
from synthetic_study import BASE, results

from talr_cli.report.figures.score_by_lr import draw_score_by_lr
from talr_cli.report.figures.tradeoff import draw_tradeoff
from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.seeds import seeds_cells
from talr_cli.report.tables.table import study_rows
from talr_cli.statistics import seeds as statistics_of_seeds
from talr_cli.statistics.groups import comparable, left_out_lines
from talr_cli.statistics.pairs import measured_alike
from talr_cli.statistics.seeds import (
    ambiguous_lines,
    curves,
    seed_groups,
    unambiguous_settings,
)

DOMAIN = [0.31, 0.35, 0.28]


def seeds(**changes):
    return [
        results("talr", seed=seed, domain=(score, 0.03), **changes)
        for seed, score in enumerate(DOMAIN)
    ]


def test_mean_and_sample_standard_deviation():
    runs = [BASE, *seeds(), results("sft")]
    talr = list(csv.DictReader(io.StringIO(as_csv(seeds_cells(study_rows(comparable(runs)))))))[1]
    assert (talr["dataset"], talr["method"], talr["seeds"]) == ("medcalc", "talr", "3")
    assert float(talr["domain"]) == pytest.approx(numpy.mean(DOMAIN))
    assert float(talr["domain_sd"]) == pytest.approx(numpy.std(DOMAIN, ddof=1))
    assert float(talr["domain_change"]) == pytest.approx(numpy.mean(DOMAIN) - 0.21)


def test_of_seeds_that_were_not_all_measured_the_known_ones_count():
    runs = [BASE, *seeds()[:2], results("talr", seed=2, domain=None)]
    cells = seeds_cells(study_rows(comparable(runs)))
    (talr,) = csv.DictReader(io.StringIO(as_csv(cells)))
    assert float(talr["domain"]) == pytest.approx(0.33)
    assert float(talr["domain_sd"]) == pytest.approx(0.04 / math.sqrt(2))
    assert "0.330 ± 0.028 (of 2)" in as_markdown(cells)


def test_one_seed_has_no_deviation_and_no_table():
    runs = [BASE, results("sft"), results("talr")]
    assert seeds_cells(study_rows(comparable(runs))) is None
    lines = as_markdown(
        seeds_cells(study_rows(comparable([*runs, results("talr", seed=1)])))
    ).splitlines()
    assert lines[2].startswith("| sft | 1e-6 | 1 | 0.300 | +0.090 |")
    assert lines[3].startswith("| talr | 1e-6 | 2 | 0.300 ± 0.000 |")


def test_the_error_of_a_single_run_is_its_own():
    (alone,) = seed_groups([results("sft", domain=(0.3, 0.05))])
    assert alone.estimate("domain").stderr == 0.05
    (three,) = seed_groups(seeds())
    assert three.estimate("domain").stderr == pytest.approx(numpy.std(DOMAIN, ddof=1))


def test_runs_of_many_rates_are_not_each_compared_with_all(monkeypatch):
    """A search makes a thousand; a report asks for their settings some forty times."""
    label, asked = statistics_of_seeds.run_label, []
    monkeypatch.setattr(
        statistics_of_seeds, "run_label", lambda one: asked.append(one) or label(one)
    )
    runs = [results("sft", lr=1e-6 * (1 + n), seed=seed) for n in range(60) for seed in range(2)]
    settings = seed_groups(runs)
    assert [one.runs for one in settings] == [runs[n : n + 2] for n in range(0, 120, 2)]
    assert len(asked) <= 2 * len(runs)


def test_seeds_of_a_setting_are_not_each_compared_with_all(monkeypatch):
    """Yet each that does not go with one of them stays out, as if all had been compared."""
    draw, runs = random.Random(0), []
    for seed in range(300):
        one = results("sft", seed=seed)
        one["setting"] = draw.choice(["a", "b", None])
        one["domain"] = draw.choice([None, one["domain"], {**one["domain"], "items_hash": "other"}])
        one["general"]["tasks"] = draw.choice(
            [{}, {"t": {"metric": "acc"}}, {"t": {"metric": "f"}}]
        )
        runs.append(one)

    def goes_with(one, other):
        settings = {one["setting"], other["setting"]} - {None}
        return len(settings) < 2 and all(
            not one[part] or not other[part] or measured_alike(one, other, part)
            for part in ("domain", "general")
        )

    expected = []
    for one in runs:
        for group in expected:
            if all(goes_with(one, other) for other in group):
                group.append(one)
                break
        else:
            expected.append([one])
    asked = []
    monkeypatch.setattr(
        statistics_of_seeds,
        "measured_alike",
        lambda *given: asked.append(given) or measured_alike(*given),
    )
    assert [one.runs for one in seed_groups(runs)] == expected
    assert 5 < len(expected) < 30
    assert len(asked) < 10 * len(runs)


def test_a_seed_that_was_not_scored_is_left_out_and_said():
    runs = seeds()
    runs[2]["domain"] = None
    line = as_markdown(seeds_cells(study_rows(comparable([BASE, *runs])))).splitlines()[2]
    assert "| talr | 1e-6 | 3 | 0.330 ± 0.028 (of 2) |" in line


def test_what_is_not_the_same_setting_is_not_averaged():
    other_suite = results("talr", seed=5)
    other_suite["general"]["suite"] = "full"
    averages = [results("averaging", seed=seed) for seed in (0, 1)]
    for one, alpha in zip(averages, (0.25, 0.5), strict=True):
        one["weights"]["averaged"] = {"alpha": alpha, "of": "x"}
    groups = seed_groups([BASE, *seeds(), other_suite, *averages])
    assert [len(group.runs) for group in groups] == [3, 1, 1, 1]


def test_one_seed_twice_means_settings_that_results_do_not_name():
    groups = seed_groups([*seeds(), results("talr", seed=1)])
    assert [len(group.runs) for group in groups] == [1, 1, 1, 1]


def made_with(setting, seeds, method="talr", **where):
    runs = [
        results(method, seed=seed, id=f"{setting}{seed}{where}"[:24], **where) for seed in seeds
    ]
    return [{**one, "setting": setting} for one in runs]


def test_seeds_of_two_settings_that_share_a_name_are_not_averaged():
    """As after `trainer.epochs=3 seed=0,1` and `trainer.epochs=10 seed=0,2` in one study."""
    groups = seed_groups([*made_with("three", (0, 1)), *made_with("ten", (0, 2))])
    assert [[one["run"]["seed"] for one in group.runs] for group in groups] == [[0, 1], [0, 2]]
    assert [group.setting for group in groups] == ["three", "ten"]
    older = results("talr", seed=7)  # its results do not say what else it was made with
    (both,) = seed_groups([older, *made_with("three", (0, 1))])
    assert (len(both.runs), both.setting) == (3, "three")
    first, second = seed_groups([older, *made_with("three", (0, 1)), *made_with("ten", (2,))])
    assert (len(first.runs), len(second.runs)) == (3, 1)


def test_what_a_name_does_not_tell_apart_is_left_out_where_methods_are_compared_and_said():
    runs = [BASE, *made_with("three", (0, 1)), *made_with("ten", (2,)), results("sft")]
    groups = seed_groups(runs)
    assert [one.label for one in unambiguous_settings(groups).values()] == ["sft"]
    (group,) = comparable(runs)
    assert left_out_lines([group]) == [
        "left out of the comparison of methods: talr at lr 1e-6: its runs are of 2 settings, which "
        "differ in more than the seed"
    ]
    group.runs[-1]["trained_on"], group.runs[-2]["trained_on"] = "a", "b"
    assert left_out_lines([group])[0].endswith(", their training data too")


def test_seeds_that_got_other_rows_for_the_same_values_are_not_averaged_and_said():
    """As where a data set of the hub changed between two runs. A seed of the data is a value."""
    runs = made_with("three", range(5))
    given = [("v", "old"), ("v", "old"), ("v", "new"), ("w", "drawn"), (None, None)]
    for one, (chosen, rows) in zip(runs, given, strict=True):
        if rows is not None:
            one["training"] |= {"rows_chosen": chosen, "rows_hash": rows}
    groups = seed_groups(runs)
    assert [[one["run"]["seed"] for one in group.runs] for group in groups] == [[0, 1, 3, 4], [2]]
    (group,) = comparable([BASE, *runs])
    lines = left_out_lines([group])
    assert lines[0].endswith("differ in more than the seed, their training data too")
    assert lines[1:] == [
        "not comparable: talr-lr1e-6-s2-three2{} was trained on other rows than most runs "
        "(new and old): the data set has changed; dataset.revision=COMMIT keeps it"
    ]


def at_rates(setting, rates, **more):
    return [results("talr", lr=lr, id=f"{lr:g}") | {"setting": setting, **more} for lr in rates]


def test_one_curve_is_of_one_setting_and_what_is_left_out_of_it_is_said():
    """As after `talr search`, whose trials differ in more than the rate."""
    found = [run for n, lr in enumerate((1e-6, 2e-6, 5e-6)) for run in at_rates(f"s{n}", [lr])]
    assert [len(curve) for curve in curves(seed_groups(found))] == [1, 1, 1]
    assert unambiguous_settings(seed_groups(found)) == {}
    assert ambiguous_lines(found) == [
        "talr: its rates are of 3 settings, which differ in more than rate and seed; compared "
        "(those of one setting): none"
    ]
    grid = at_rates("s0", [1e-6, 1e-5], trained_on="a")
    mixed = [*grid, *at_rates("s1", [2e-6], trained_on="b")]
    assert [[one.lr for one in curve] for curve in curves(seed_groups(mixed))] == [
        [1e-6, 1e-5],
        [2e-6],
    ]
    assert [lr for _, lr, _ in unambiguous_settings(seed_groups(mixed))] == [1e-6, 1e-5]
    assert ambiguous_lines(mixed) == [
        "talr: its rates are of 2 settings, which differ in more than rate and seed, their "
        "training data too; compared (those of one setting): 2"
    ]
    assert ambiguous_lines(grid) == []
    (line,) = ambiguous_lines([*at_rates("s0", [1e-6]), *at_rates("s1", [2e-6])])
    assert line.endswith("compared (those of one setting): none")
    older = results("talr", lr=2e-6, id="old")  # does not say of which setting it is
    assert len(curves(seed_groups([*grid, older]))) == 1


def test_pictures_join_points_of_one_setting_alone():
    runs = [BASE, *at_rates("s0", [1e-6, 1e-5]), *at_rates("s1", [2e-6])]
    (group,) = comparable(runs)
    figure = draw_score_by_lr(group)
    drawn = [len(bar.lines[0].get_xdata()) for bar in figure.axes[0].containers]
    assert drawn == [2, 1]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["base model", "talr"]
    lines = draw_tradeoff(group).axes[0].get_lines()
    joined = [one for one in lines if one.get_linewidth() == 1.6 and len(one.get_xdata()) > 1]
    assert [len(one.get_xdata()) for one in joined] == [2]
