"""Tables on narrow terminals: whole numbers, whole names, and a word on what is not there."""

import io
import itertools

import pytest
from rich.cells import cell_len
from rich.console import Console
from synthetic_study import scored, study

from talr_cli.report.tables.cells import Cell, Cells, Column
from talr_cli.report.tables.comparison import comparison_cells
from talr_cli.report.tables.screen import fitted
from talr_cli.report.tables.table import results_cells, study_rows
from talr_cli.statistics.groups import comparable

ROWS = [[True] * 40 + [False] * 20, [True] * 25 + [False] * 35]
TASKS = {"mini_instructions": ROWS[0], "mini_arithmetic": ROWS[1]}


def printed(cells, width):
    file = io.StringIO()
    Console(width=width, file=file).print(fitted(cells, width))
    return file.getvalue().splitlines()


def of_study():
    return results_cells(study_rows(comparable(study(12))))


def of_two_runs():
    before, after = (scored(name, rows, TASKS) for name, rows in zip("ab", ROWS, strict=True))
    after["general"]["tasks"]["mini_arithmetic"]["metric"] = "another"
    return comparison_cells(before, after)


@pytest.mark.parametrize(
    ("cells", "width"), itertools.product([of_study(), of_two_runs()], [60, 80, 100, 120, 160])
)
def test_no_number_is_cut_and_what_is_left_out_is_named(cells, width):
    lines = printed(cells, width)
    assert all(cell_len(line) <= width for line in lines)
    said = next((line for line in lines if line.startswith("left out")), "")
    columns, rows = cells.shown()
    text = "\n".join(lines)
    for place, column in enumerate(columns):
        if column.title in said.partition(": ")[2].split(", "):
            assert column.spare
            assert column.title not in text.replace(said, "")
            continue
        assert column.title in text or place == 0
        for row in rows:
            if column.number:
                assert any(row[place].text in line for line in lines)
            else:
                assert set(row[place].text.split()) <= set(text.split())


def test_columns_are_spared_before_the_table_becomes_blocks():
    wide, narrow, blocks = (printed(of_study(), width) for width in (160, 120, 80))
    assert not any("left out" in line for line in wide)
    assert narrow[-1] == "left out, as the terminal is narrow: drift KL, Pareto"
    assert sum("drift KL" in line for line in blocks) == 13  # the base and twelve runs
    assert not any("left out" in line for line in blocks)


def test_a_reason_is_folded_between_words():
    cells = Cells(
        [Column("n", "n", number=True), Column("why", "why")],
        [[Cell("0.123 ± 0.045"), Cell("not comparable: its base is another model")]],
    )
    lines = printed(cells, 40)
    assert sum("0.123 ± 0.045" in line for line in lines) == 1
    assert {"comparable:", "another"} <= set(" ".join(lines).split())
