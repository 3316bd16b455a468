"""The table says what the results say, and compares only what can be compared."""

import csv
import io
import math

import pytest
import synthetic_study
from rich.console import Console
from scipy import stats
from synthetic_study import scored

from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.comparison import comparison_cells
from talr_cli.report.tables.screen import fitted, print_cells
from talr_cli.report.tables.table import estimate_cell, results_cells
from talr_cli.report.tables.table import study_rows as rows_of_groups
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.estimates import Estimate
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.paired import with_interval
from talr_cli.statistics.power import detectable_difference


def study_rows(runs):
    return rows_of_groups(comparable(runs))


def markdown_table(runs):
    return as_markdown(results_cells(rows_of_groups(comparable(runs))))


def csv_table(runs):
    return as_csv(results_cells(rows_of_groups(comparable(runs))))


def results(method="talr", lr=1e-6, seed=0, domain=(0.3, 0.03), general=(0.4, 0.04), **changes):
    """Those of a study with `changes` in them: `run__model="m"` is run.model."""
    one = synthetic_study.results(method, lr, seed, domain, general, model="m")
    one["drift"]["kl_from_base"].update(score=0.00123, stderr=0.0001)
    for path, value in changes.items():
        section, key = path.split("__")
        one[section][key] = value
    return one


BASE = results("base", domain=(0.2, 0.02), general=(0.5, 0.03))


def test_base_comes_first_and_lr_is_ordered_by_size():
    runs = [results(lr=1e-5), results("sft"), results(lr=5e-6, seed=1), results(lr=5e-6), BASE]
    order = [(row.run["method"], row.run["lr"], row.run["seed"]) for row in study_rows(runs)]
    assert order == [
        ("base", None, None),
        ("sft", 1e-6, 0),
        ("talr", 5e-6, 0),
        ("talr", 5e-6, 1),
        ("talr", 1e-5, 0),
    ]


def test_change_against_base_has_the_standard_error_of_a_difference():
    base, tuned = study_rows([BASE, results()])
    assert base.estimates["domain_change"] is None
    change = tuned.estimates["domain_change"]
    assert change.score == pytest.approx(0.1)
    assert change.stderr == pytest.approx(math.sqrt(0.03**2 + 0.02**2))
    assert tuned.estimates["general_change"].score == pytest.approx(-0.1)


def right(share, n=100):
    return [number < share * n for number in range(n)]


def paired_study():
    """Two runs whose answers agree with the base's but for 5 and for 20 rows of 100."""
    tasks = {"a": right(0.5), "b": right(0.5)}
    runs = [scored("base", right(0.3), tasks)]
    return [*runs, scored("sft", right(0.35), tasks), scored("talr", right(0.5), tasks)]


def test_change_on_the_same_items_is_paired():
    _, sft, talr = study_rows(paired_study())
    change = talr.estimates["domain_change"]
    assert change.score == pytest.approx(0.2)
    assert change.stderr == pytest.approx(math.sqrt(0.2 * 0.8 / 99))  # of the differences
    assert change.stderr < math.hypot(*(math.sqrt(p * (1 - p) / 99) for p in (0.3, 0.5)))
    assert change.is_distinguishable
    # All 5 flips went one way: 2 / 2^5 is more than 5%.
    assert not sft.estimates["domain_change"].is_distinguishable
    assert sft.estimates["general_change"].p == 1


def test_what_is_not_distinguishable_from_noise_is_marked():
    base, sft, talr = markdown_table(paired_study()).splitlines()[2:]
    assert "≈" not in base
    assert "| +0.050 ± 0.022 ≈ 0 |" in sft
    assert "| +0.200 ± 0.040 |" in talr
    assert "| +0.000 ± 0.000 ≈ 0 |" in talr
    rows = list(csv.DictReader(io.StringIO(csv_table(paired_study()))))
    assert [row["domain_change_distinguishable"] for row in rows] == ["", "False", "True"]
    assert float(rows[2]["domain_change_p"]) < 0.001


def test_two_runs_side_by_side_have_the_numbers_of_their_difference():
    base, sft, talr = paired_study()
    domain, *_ = comparison_cells(base, talr).rows
    texts = [cell.text for cell in domain]
    assert texts[1:4] == ["0.300 ± 0.046", "0.500 ± 0.050", "+0.200"]
    assert texts[5:10] == ["< 0.001", "< 0.001", "100", "20", "0"]
    assert texts[-1] == "differs"
    domain, *_ = comparison_cells(base, sft).rows
    assert domain[6].text == "0.062"  # McNemar: 2 / 2^5
    assert float(domain[5].text) == pytest.approx(domain[5].value, abs=5e-4)
    assert domain[-1].text == "≈ 0"
    assert domain[-2].text == f"{detectable_difference([(0.3, 100)]):.3f}"
    other = scored("flow", right(0.3), {"a": right(0.53), "b": right(0.52)})
    general = comparison_cells(base, other).rows[1]
    assert float(general[6].text) == pytest.approx(2 / 2**5, abs=0.01)  # by signs, of five flips
    assert general[6].value is None
    base["general"] = None  # what either was scored on has a line
    assert [row[0].text for row in comparison_cells(base, sft).rows] == [
        *("domain", "general", "a", "b")
    ]
    assert len(comparison_cells(sft, base).rows) == 4


def test_without_items_a_change_is_tested_as_one_of_independent_scores():
    large, small = study_rows([BASE, results(), results(lr=1e-5, domain=(0.24, 0.03))])[1:]
    p = stats.norm.sf(0.1 / math.hypot(0.03, 0.02)) * 2
    assert large.estimates["domain_change"].p == pytest.approx(p)
    assert large.estimates["domain_change"].is_distinguishable
    assert not small.estimates["domain_change"].is_distinguishable
    old, new = paired_study()[0], paired_study()[1]
    del old["domain"]["items"]
    change = study_rows([old, new])[1].estimates["domain_change"]
    assert change.stderr == pytest.approx(
        math.hypot(old["domain"]["stderr"], new["domain"]["stderr"])
    )


def test_no_change_against_other_items():
    old, new = paired_study()[:2]
    old["domain"]["items_hash"], new["domain"]["items_hash"] = "aa", "bb"
    assert study_rows([old, new])[1].estimates["domain_change"] is None


def test_no_change_against_a_base_measured_otherwise():
    other_suite = results(general__suite="full")
    other_scorer = results(domain__scorer="exact")
    other_answers = results(domain__answer_by="likelihood")
    other_model = results(run__model="bigger")
    rows = study_rows([BASE, other_suite, other_scorer, other_answers, other_model])
    by_change = [
        (row.estimates["domain_change"] is None, row.estimates["general_change"] is None)
        for row in rows
        if row.run["method"] != "base"
    ]
    assert sorted(by_change) == [(False, True), (True, False), (True, False), (True, True)]


def test_markdown_has_a_line_for_each_run():
    lines = markdown_table([results(), BASE]).splitlines()
    assert lines[0].startswith("| method | lr | seed | domain | Δ domain |")
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| base | – | – | 0.200 ± 0.020 | – |")
    assert "| talr | 1e-6 | 0 | 0.300 ± 0.030 | +0.100 ± 0.036 | 0.400 ± 0.040 |" in lines[3]
    assert "0.0012 ± 0.0001" in lines[3]


def test_the_kl_on_the_domain_has_a_column_where_it_was_measured():
    one = results()
    one["drift"]["domain_kl_from_base"] = {"score": 0.0456, "stderr": 0.0012}
    assert "domain KL" not in markdown_table([BASE, results()])
    table = markdown_table([BASE, one])
    assert "domain KL" in table
    assert "0.0456 ± 0.0012" in table


def test_missing_parts_are_dashes_not_zeros():
    one = results(general=None)
    one["drift"] = None
    unknown_error = results(lr=2e-6, domain=(0.3, None))
    not_finite = results(lr=3e-6, domain=(None, None))
    lines = markdown_table([BASE, one, unknown_error, not_finite]).splitlines()
    assert lines[3].endswith("| +0.100 ± 0.036 | – | – | – | – | – |")
    assert "| 0.300 | +0.100 |" in lines[4]
    assert "| 0 | – | – | 0.400 ± 0.040 |" in lines[5]


def test_csv_keeps_every_digit():
    rows = list(csv.DictReader(io.StringIO(csv_table([BASE, results(domain=(1 / 3, 0.03))]))))
    assert rows[0]["lr"] == ""
    assert float(rows[1]["domain"]) == 1 / 3
    assert float(rows[1]["lr"]) == 1e-6
    assert float(rows[1]["general_change_stderr"]) == pytest.approx(0.05)
    assert rows[1]["model"] == "m"
    worse = results("l2", domain=(0.1, 0.03), general=(0.1, 0.03))
    rows = list(csv.DictReader(io.StringIO(csv_table([BASE, worse]))))
    assert [row["pareto_front"] for row in rows] == ["True", "False"]


def test_terminal_table_has_the_same_cells():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(fitted(results_cells(rows_of_groups(comparable([BASE, results()]))), 200))
    text = console.export_text()
    assert "0.300 ± 0.030" in text
    assert "+0.100 ± 0.036" in text


def test_printed_into_a_pipe_no_cell_is_folded(capsys):
    print_cells(results_cells(rows_of_groups(comparable([BASE, results()]))))
    assert "│ 0.300 ± 0.030 │ +0.100 ± 0.036 │" in capsys.readouterr().out


def test_runs_on_the_front_are_marked():
    worse, better = results(general=(0.39, 0.04)), results(lr=5e-6)
    lines = markdown_table([BASE, worse, better, results(lr=1e-5, general=None)]).splitlines()
    assert lines[0].endswith("| Pareto |")
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["yes", "no", "yes", "–"]


def test_one_run_alone_has_nothing_to_be_on_the_front_of():
    assert "Pareto" not in markdown_table([results()])


def test_averages_of_one_run_are_told_apart():
    runs = [results("averaging") for _ in range(2)]
    for one, alpha in zip(runs, (0.25, 0.5), strict=True):
        one["weights"] = {"averaged": {"alpha": alpha, "of": "sft"}}
    assert "| averaging α=0.25 | 1e-6 |" in markdown_table(runs)
    written = list(csv.DictReader(io.StringIO(csv_table(runs))))
    assert [(row["method"], row["alpha"]) for row in written] == [
        ("averaging", "0.25"),
        ("averaging", "0.5"),
    ]


def test_a_name_is_no_markup_in_the_terminal():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(
        fitted(results_cells(rows_of_groups(comparable([BASE, results("[red]x[/red]")]))), 200)
    )
    assert "[red]x[/red]" in console.export_text()


def test_several_pairs_are_named():
    header = markdown_table([BASE, results(), results(run__model="bigger")]).splitlines()[0]
    assert header.startswith("| model | dataset | method |")


def test_an_empty_study_is_a_header_alone():
    assert markdown_table([]).count("\n") == 2
    assert csv_table([]).count("\n") == 1


def test_zero_is_written_without_a_minus_sign():
    """-0.0004 is written 0.000, as it is told from noise or not, with a sign as others have it."""
    same = (-0.0004, -0.00049999, 0.0)
    assert with_interval(*same) == "+0.000 [+0.000, +0.000]"
    assert with_interval(-0.0005001, -0.1, 0.1) == "-0.001 [-0.100, +0.100]"
    assert estimate_cell("domain_change", Estimate(-0.0004, 0.01)).text == "+0.000 ± 0.010"
    assert estimate_cell("kl_from_base", Estimate(-1e-9, 0.0)).text == "0.0000 ± 0.0000"
    assert Contrast(-0.0004, 0.0, 0.0, 1, 9).text() == "+0.000 [+0.000, +0.000], n 9"
