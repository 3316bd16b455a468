"""Means over seeds against numpy, and runs that are no seeds of each other."""

import csv
import io

import numpy
import pytest
from synthetic_study import BASE, results

from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.seeds import seeds_cells
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.seeds import seed_groups

DOMAIN = [0.31, 0.35, 0.28]


def seeds(**changes):
    return [
        results("talr", seed=seed, domain=(score, 0.03), **changes)
        for seed, score in enumerate(DOMAIN)
    ]


def test_mean_and_sample_standard_deviation():
    runs = [BASE, *seeds(), results("sft")]
    talr = list(csv.DictReader(io.StringIO(as_csv(seeds_cells(comparable(runs))))))[1]
    assert (talr["method"], talr["seeds"]) == ("talr", "3")
    assert float(talr["domain"]) == pytest.approx(numpy.mean(DOMAIN))
    assert float(talr["domain_sd"]) == pytest.approx(numpy.std(DOMAIN, ddof=1))
    assert float(talr["domain_change"]) == pytest.approx(numpy.mean(DOMAIN) - 0.21)


def test_one_seed_has_no_deviation_and_no_table():
    runs = [BASE, results("sft"), results("talr")]
    assert seeds_cells(comparable(runs)) is None
    lines = as_markdown(seeds_cells(comparable([*runs, results("talr", seed=1)]))).splitlines()
    assert lines[2].startswith("| sft | 1e-6 | 1 | 0.300 | +0.090 |")
    assert lines[3].startswith("| talr | 1e-6 | 2 | 0.300 ± 0.000 |")


def test_the_error_of_a_single_run_is_its_own():
    (alone,) = seed_groups([results("sft", domain=(0.3, 0.05))])
    assert alone.estimate("domain").stderr == 0.05
    (three,) = seed_groups(seeds())
    assert three.estimate("domain").stderr == pytest.approx(numpy.std(DOMAIN, ddof=1))


def test_a_seed_that_was_not_scored_is_left_out_and_said():
    runs = seeds()
    runs[2]["domain"] = None
    line = as_markdown(seeds_cells(comparable([BASE, *runs]))).splitlines()[2]
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
