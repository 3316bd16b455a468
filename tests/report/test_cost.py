"""Hours by hand: processes, resumed runs, averages that share a training."""

import csv
import io

import pytest
from synthetic_study import BASE, results, training

from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.cost import cost_cells
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.pairs import name_of


def cost(*runs):
    return list(csv.DictReader(io.StringIO(as_csv(cost_cells(comparable(runs))))))


def trained(method="sft", seed=0, **changes):
    one = results(method, seed=seed, id=f"{method}{seed}")
    one["training"] = training(**changes)
    return one


def test_device_hours_are_those_of_all_gpus():
    (line,) = cost(BASE, trained(seconds=1800, processes=4), trained(seed=1, seconds=900))[:1]
    assert line["device"] == "4 × NVIDIA H100 80GB HBM3"
    assert float(line["hours"]) == 2.0
    assert float(line["evaluation_hours"]) == pytest.approx(0.02)  # 2 · 36 s


def test_speed_is_the_mean_and_memory_the_most_of_what_is_known():
    slow, fast, old = (trained(seed=seed) for seed in range(3))
    slow["training"] |= {"tokens_per_second": 500.0, "peak_memory_gib": 7.5}
    old["training"] |= {"tokens_per_second": None, "peak_memory_gib": None}
    (line,) = cost(fast, slow, old)
    assert (line["tokens_per_second"], line["peak_memory_gib"]) == ("750.0", "7.5")
    (line,) = cost(old)
    assert (line["tokens_per_second"], line["peak_memory_gib"]) == ("", "")


def test_evaluation_hours_are_those_of_all_gpus():
    one = trained()
    one["domain"]["processes"] = 4
    (line,) = cost(one)
    seconds = one["general"]["seconds"] + 4 * one["domain"]["seconds"]
    assert float(line["evaluation_hours"]) == pytest.approx(seconds / 3600, abs=5e-4)


def test_a_line_for_each_method_and_device():
    lines = cost(trained(), trained(seed=1, device="cpu"), trained("talr"))
    assert [(line["method"], line["device"]) for line in lines] == [
        ("sft", "NVIDIA H100 80GB HBM3"),
        ("sft", "cpu"),
        ("talr", "NVIDIA H100 80GB HBM3"),
    ]


def test_a_resumed_run_timed_its_last_part_only():
    (line,) = cost(trained(), trained(seed=1, seconds=600, steps=100, resumed=75))
    assert float(line["hours"]) == pytest.approx(0.5 + 600 * 4 / 3600)
    assert float(line["hours_per_training"]) == pytest.approx(float(line["hours"]) / 2)


def test_resumed_after_the_last_step_nothing_was_timed():
    (line,) = cost(trained(seconds=0.1, steps=100, resumed=100))
    assert (line["trainings"], line["hours"]) == ("1", "")


def test_averages_of_one_run_are_one_training():
    averages = [trained("averaging", seed) for seed in range(3)]
    for one, alpha in zip(averages, (0.25, 0.5, 0.75), strict=True):
        one["weights"]["averaged"] = {"alpha": alpha, "of": "sft-lr1e-6-s0-00000000"}
    (line,) = cost(*averages)
    assert (line["trainings"], float(line["hours"])) == ("1", 0.5)
    assert float(line["evaluation_hours"]) == pytest.approx(0.06)


def test_points_along_a_training_cost_nothing_beside_its_end():
    end, early, late = (trained(seconds=one) for one in (1800, 600, 1200))
    for one, share in ((early, 1 / 3), (late, 2 / 3)):
        one["run"]["id"] = f"at{share:.1f}"
        one["weights"] = {"taken": {"at": share, "of": name_of(end)}}
    (line,) = cost(late, end, early)
    assert (line["trainings"], float(line["hours"])) == ("1", 0.5)
    (line,) = cost(early, late)  # its end was not scored
    assert float(line["hours"]) == pytest.approx(1 / 3, abs=5e-4)


def test_runs_without_a_recorded_device_have_a_dash():
    old = trained()
    del old["training"]["device"], old["training"]["processes"]
    assert "| sft | – | 1 | 0.500 | 0.500 |" in as_markdown(cost_cells(comparable([old])))


def test_a_study_without_trainings_has_no_cost_table():
    assert cost_cells(comparable([BASE])) is None
