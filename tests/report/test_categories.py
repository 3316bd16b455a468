"""Domain scores by category: of several runs, of one, and where there are none."""

import csv
import io

from synthetic_study import BASE, results

from talr_cli.report.show import show
from talr_cli.report.tables.categories import categories_cells, category_cells
from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.groups import comparable


def scored(method, categories):
    one = results(method)
    one["domain"]["categories"] = {
        name: {"score": score, "stderr": stderr, "n": n}
        for name, (score, stderr, n) in categories.items()
    }
    return one


SFT = scored("sft", {"lab": (0.25, 0.05, 40), "risk": (0.5, None, 1)})
TALR = scored("talr", {"date": (0.125, 0.01, 8), "lab": (0.75, 0.05, 40)})


def test_a_line_a_run_and_a_column_a_category():
    lines = as_markdown(categories_cells(comparable([BASE, SFT, TALR]))).splitlines()
    assert lines[0] == "| method | lr | seed | date | lab | risk |"
    assert lines[2] == "| sft | 1e-6 | 0 | – | 0.250 ± 0.050 | 0.500 |"
    assert lines[3] == "| talr | 1e-6 | 0 | 0.125 ± 0.010 | 0.750 ± 0.050 | – |"
    assert len(lines) == 4


def test_programs_get_every_error_in_a_column_of_its_own():
    (row,) = csv.DictReader(io.StringIO(as_csv(categories_cells(comparable([SFT])))))
    assert (row["lab"], row["lab_stderr"]) == ("0.25", "0.05")
    assert (row["risk"], row["risk_stderr"]) == ("0.5", "")


def test_without_categories_there_is_no_table():
    unscored = results("sft", domain=None)
    assert categories_cells(comparable([BASE, unscored])) is None
    assert category_cells(BASE) is None
    assert category_cells(unscored) is None


def test_a_run_is_shown_with_its_categories(tmp_path, capsys):
    directory = RunDirectory(tmp_path)
    directory.write_results(SFT)
    show([directory])
    shown = [line.replace("│", "").split() for line in capsys.readouterr().out.splitlines()]
    assert ["lab", "40", "0.250", "±", "0.050"] in shown
    assert ["risk", "1", "0.500"] in shown
    assert ["all", "72", "0.300", "±", "0.030"] in shown
