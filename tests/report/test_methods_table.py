"""The table of methods by rate: means of seeds, and changes with the errors that belong to them."""

import csv
import io

import numpy
import pytest
from synthetic_study import BASE, results, scored

from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.methods import fewer_cells, method_lines, methods_cells
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.paired import difference


def lines_of(runs):
    return [line for group in comparable(runs) for line in method_lines(group)]


def rows_of(runs):
    cells = methods_cells(lines_of(runs))
    return list(csv.DictReader(io.StringIO(as_csv(cells)))), as_markdown(cells).splitlines()[2:]


def runs_with_items():
    draw = numpy.random.default_rng(0)
    before = draw.random(80) < 0.4
    runs = [scored("base", before, {"a": before, "b": ~before})]
    for method, gain in (("talr", 0.2), ("sft", 0.6)):
        for seed in (0, 1, 2):  # of three the mean is not the median
            after = before | (draw.random(80) < gain)
            tasks = {"a": after, "b": ~before & (draw.random(80) < 0.5)}
            runs.append(scored(method, after, tasks, lr=1e-5, seed=seed, id=f"{method}{seed}"))
    return runs


def test_seeds_are_averaged_and_changes_are_from_the_base_on_the_same_items():
    runs = runs_with_items()
    rows, lines = rows_of(runs)
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("base", "1"),
        ("sft", "3"),
        ("talr", "3"),
    ]
    for row in rows[1:]:
        own = [one for one in runs if one["run"]["method"] == row["method"]]
        assert float(row["kl_from_base"]) == pytest.approx(0.01)
        for part in ("domain", "general"):
            changes = [difference(runs[0], one, part).difference for one in own]
            assert float(row[part]) == pytest.approx(
                numpy.mean([one[part]["score"] for one in own])
            )
            assert float(row[f"{part}_change"]) == pytest.approx(numpy.mean(changes))
            low, high = float(row[f"{part}_change_low"]), float(row[f"{part}_change_high"])
            assert low < numpy.mean(changes) < high
            assert ("≈ 0" in lines[rows.index(row)]) or low > 0 or high < 0
    assert lines[0].startswith("| base | – | 1 | 0.")


def test_of_many_settings_the_best_of_each_method_is_kept():
    """By the domain score, the mean of its seeds; in the order of all."""
    runs = [BASE]
    for method, scores in (("sft", (0.3, 0.5, 0.4)), ("talr", (0.45, 0.2, 0.1))):
        for lr, score in zip((1e-6, 5e-6, 2e-5), scores, strict=True):
            for seed, off in enumerate((-0.2, 0.2)):
                one = results(method, lr, seed, (score + off, 0.03), id=f"{method}{lr}{seed}")
                runs.append(one)
    lines = lines_of(runs)
    by_rate = [line.lr for line in lines_of([BASE, *runs[:0:-1]])]
    assert by_rate == [None, 1e-6, 5e-6, 2e-5, 1e-6, 5e-6, 2e-5]
    cells, said = fewer_cells(lines, 6)
    kept = list(csv.DictReader(io.StringIO(as_csv(cells))))
    assert [(row["method"], row["lr"]) for row in kept] == [
        ("base", ""),
        ("sft", "5e-06"),
        ("talr", "1e-06"),
    ]
    assert said.endswith("of 7 settings")
    assert fewer_cells(lines, 7) == (methods_cells(lines), "")


def test_only_changes_within_noise_are_marked():
    runs = runs_with_items()
    same = scored("l2", [*runs[0]["domain"]["items"].values()], {
        task: [*section["items"].values()] for task, section in runs[0]["general"]["tasks"].items()
    }, lr=1e-5, id="same")  # fmt: skip
    _, lines = rows_of([*runs, same])
    (line,) = [line for line in lines if line.startswith("| l2 |")]
    assert line.count("+0.000 [") == 2
    assert line.count("≈ 0") == 2
    (line,) = [line for line in lines if line.startswith("| sft |")]
    assert "≈ 0" not in line.split(" | ")[4]


def test_without_items_the_error_is_that_of_independent_means():
    runs = [
        results("sft", 1e-5, seed, scored)
        for seed, scored in enumerate([(0.3, 0.03), (0.34, 0.05)])
    ]
    rows, _ = rows_of([BASE, *runs])
    ends = float(rows[1]["domain_change_low"]), float(rows[1]["domain_change_high"])
    assert float(rows[1]["domain_change"]) == pytest.approx(0.11)
    # Over items .03 of the base and .03 or .05 of a run, over runs .04 / 2 ** .5 / 2 ** .5, of one
    # degree of freedom.
    items = 0.03**2 + (0.03**2 + 0.05**2) / 2
    assert ends == pytest.approx(Contrast(0.11, items, 0.02**2, 1, 72).interval())
    alone, _ = rows_of([BASE, runs[0]])
    width = float(alone[1]["domain_change_high"]) - float(alone[1]["domain_change_low"])
    assert width == pytest.approx(2 * 1.959964 * 0.03 * 2**0.5, rel=1e-4)


def test_a_score_that_was_not_measured_is_a_gap():
    _, lines = rows_of([BASE, results("sft", general=None), results("talr", domain=None)])
    assert [line.split(" | ")[3:7].count("–") for line in lines[1:]] == [2, 2]
    # Of two seeds one was: it alone is no change of the setting.
    seeds = [results("sft"), results("sft", seed=1, domain=None)]
    (row,) = rows_of([BASE, *seeds])[0][1:]
    assert (row["seeds"], row["domain"], row["domain_change"]) == ("2", "0.3", "")
    assert rows_of(seeds)[0][0]["domain_change"] == ""
    # Nor is it one where the items are known.
    runs = runs_with_items()
    runs[-1]["domain"] = None
    changes = {row["method"]: row["domain_change"] for row in rows_of(runs)[0]}
    assert (changes["sft"], changes["talr"] != "") == ("", True)
    # A single row has a score without an error.
    assert rows_of([BASE, results("sft", domain=(0.3, None))])[0][1]["domain_change"] == ""
