"""Curves show what metrics.jsonl holds, of however many runs, and survive a damaged one."""

import json

import numpy
import pytest
from conftest import jsonl
from synthetic_study import BASE, metrics, results, study, write_study

from talr_cli.report.figures import curves
from talr_cli.report.figures.curves import STATISTICS, binned, draw_curves
from talr_cli.runs.study import load_runs
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.seeds import seed_groups

BY_METRIC = {statistic.metric: statistic for statistic in STATISTICS}


def written(folder, runs, steps=100):
    write_study(folder, runs, steps)
    return load_runs(folder, "s")


def lines(runs, metric):
    recorded = {id(one): curves._read(path) for path, one in runs.items()}
    return curves._lines(seed_groups(list(runs.values())), recorded, BY_METRIC[metric])


def test_few_steps_are_shown_as_they_are():
    steps, values = binned(numpy.arange(1, 21), numpy.arange(20.0), numpy.ones(20))
    assert steps.tolist() == list(range(1, 21))
    assert values.tolist() == list(range(20))


def test_many_steps_are_averaged_by_tokens_without_losing_any():
    generator = numpy.random.default_rng(0)
    values, tokens = generator.random(1000), generator.integers(1, 500, 1000)
    steps, means = binned(numpy.arange(1, 1001), values, tokens)
    assert len(steps) == curves.BINS
    assert means[0] == pytest.approx(numpy.average(values[:17], weights=tokens[:17]))
    assert means[-1] == pytest.approx(numpy.average(values[984:], weights=tokens[984:]))
    assert (numpy.diff(steps) > 15).all()


def test_a_line_is_the_mean_over_seeds(tmp_path):
    runs = written(tmp_path, [results("sft", seed=seed, id=str(seed)) for seed in range(3)], 10)
    (line,) = lines(runs, "loss")
    expected = [[row["loss"] for row in metrics(one, 10) if "loss" in row] for one in runs.values()]
    assert line.values == pytest.approx(numpy.mean(expected, axis=0))


def test_hard_tokens_are_shown_as_the_share_of_the_others(tmp_path):
    runs = written(tmp_path, [results("sft")], 10)
    (line,) = lines(runs, "hard_token_share")
    (one,) = runs.values()
    shares = [1 - row["hard_token_share"] for row in metrics(one, 10) if "loss" in row]
    assert line.values == pytest.approx(shares)


def test_methods_that_weigh_nothing_and_have_no_tau_have_no_such_curve(tmp_path):
    runs = written(tmp_path, [results("sft"), results("talr"), results("dft")])
    assert {line.label for line in lines(runs, "loss")} == {"sft", "talr", "dft"}
    assert {line.label for line in lines(runs, "weight_mean")} == {"talr", "dft"}
    assert {line.label for line in lines(runs, "tau")} == {"talr"}


def test_two_hundred_runs_are_a_panel_for_each_method_and_a_line_for_each_lr(tmp_path):
    runs = written(tmp_path, study(200, seeds=4), 20)
    drawn = lines(runs, "loss")
    figure = curves._draw(drawn, BY_METRIC["loss"], "small on medcalc")
    trained = {one["run"]["method"] for one in runs.values()} - {"base", "averaging"}
    assert {axes.get_title() for axes in figure.axes} == trained
    assert sum(len(axes.lines) for axes in figure.axes) == len(drawn)
    assert max(len(axes.lines) for axes in figure.axes) == 6
    looks = {(str(line.get_color()), str(line.get_linestyle())) for line in figure.axes[0].lines}
    assert len(looks) == 6


def test_damaged_lines_cost_only_themselves(tmp_path, caplog):
    runs = written(tmp_path, [results("sft", id="1"), results("talr", id="2"), BASE])
    (damaged,) = tmp_path.glob("*/*/sft*/metrics.jsonl")
    rows = damaged.read_text().splitlines(keepends=True)
    rows[3] = rows[3][:9] + "\n"
    rows[5] = '{"step": 6, "loss": "low"}\n'
    damaged.write_text("".join(rows))
    (group,) = comparable(runs.values())
    assert "loss" in draw_curves(group, runs)
    assert "sft-lr1e-6-s0-1/metrics.jsonl: line 4 and 1 more damaged, left out" in caplog.text
    drawn = {line.label: line for line in lines(runs, "loss")}
    assert set(drawn) == {"sft", "talr"}
    steps = [
        row["step"] for row in map(json.loads, [*rows[:3], rows[4], *rows[6:]]) if "loss" in row
    ]
    whole = [row["step"] for row in metrics(results("sft"), 100) if "loss" in row]
    assert whole == list(range(1, 101))
    assert sorted({*whole} - {*steps}) == [4, 6]


def test_a_number_that_was_not_finite_is_a_gap(tmp_path):
    runs = written(tmp_path, [results("sft")], 4)
    (path,) = tmp_path.glob("*/*/sft*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    next(row for row in rows if row.get("loss"))["loss"] = None
    path.write_text(jsonl(rows))
    (line,) = lines(runs, "loss")
    assert line.steps.tolist() == [2, 3, 4]


def test_a_study_of_evaluations_has_no_curves(tmp_path):
    runs = written(tmp_path, [BASE])
    (group,) = comparable(runs.values())
    assert draw_curves(group, runs) == {}
