"""A table independent of its format, and its Markdown and CSV; see also latex.py and html.py.

Knows text and numbers; does not know what they mean.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from talr_cli.printable import printable, rate_text
from talr_cli.report import markdown
from talr_cli.statistics.groups import Group

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Its name in CSV and JSON.
        title: Its name for people; a column without title is only in CSV and JSON.
        number: Whether it is aligned to the right.
        error: The CSV column of the cells' errors; None if they have none.
        spare: Whether a narrow terminal may omit it; the last such column is omitted first.
    """

    key: str
    title: str = ""
    number: bool = False
    error: str | None = None
    spare: bool = False


@dataclass(frozen=True)
class Cell:
    """The text for people; the value and its error for programs, which also sort by it."""

    text: str = MISSING
    value: Any = None
    error: float | None = None


@dataclass(frozen=True)
class Cells:
    """A table; rows[i][j] belongs to columns[j]."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def keys(self) -> list[str]:
        """The names for programs of the values in a row: each column's key, then its error."""
        return [key for column in self.columns for key in (column.key, column.error) if key]

    def values(self) -> list[list[Any]]:
        """The values of each row, in the order of `keys`."""
        return [
            [
                value
                for column, cell in zip(self.columns, row, strict=True)
                for value in ([cell.value, cell.error] if column.error else [cell.value])
            ]
            for row in self.rows
        ]

    def shown(self) -> tuple[list[Column], list[list[Cell]]]:
        """The columns that have a title, and their cells; every text on a single line."""
        indices = [index for index, column in enumerate(self.columns) if column.title]
        columns = [self.columns[index] for index in indices]
        return (
            [replace(column, title=printable(column.title)) for column in columns],
            [[replace(row[i], text=printable(row[i].text)) for i in indices] for row in self.rows],
        )


def named(value: Any) -> Cell:
    """The cell of a name or a number that is shown as it is."""
    if value is None:
        return Cell()
    return Cell(rate_text(value) if isinstance(value, float) else str(value), value)


def fixed(number: float | None, digits: int = 3) -> Cell:
    """The cell of a number that is shown with so many digits after the point."""
    return Cell() if number is None else Cell(f"{number:z.{digits}f}", number)


def p_cell(p: float) -> Cell:
    """The cell of a p-value."""
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def pair_columns(pairs: int) -> tuple[Column, Column]:
    """Model and dataset, which are shown to people only if there are several pairs."""
    return (
        Column("model", "model" if pairs > 1 else ""),
        Column("dataset", "dataset" if pairs > 1 else ""),
    )


def pair_cells(group: Group) -> tuple[Cell, Cell]:
    """The cells of `pair_columns`: the group's names for people, those of the run for programs."""
    first = next(iter(group.runs), None) or group.left_out[0][0]
    run = first["run"]
    return Cell(group.model, run["model"]), Cell(group.dataset, run["dataset"])


def as_markdown(cells: Cells) -> str:
    """The table in Markdown."""
    columns, rows = cells.shown()
    table = [
        [markdown.escaped(column.title) for column in columns],
        ["---:" if column.number else "---" for column in columns],
        *([markdown.escaped(cell.text) for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def as_csv(cells: Cells) -> str:
    """The table for programs: in full precision, each error in its own column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_no_formula, cells.keys()))
    for row in cells.values():
        writer.writerow([_no_formula(one) if isinstance(one, str) else one for one in row])
    return text.getvalue()


def _no_formula(name: str) -> str:
    """The text, quoted if a spreadsheet would read it as a formula."""
    return f"'{printable(name)}" if name.startswith(("=", "+", "-", "@")) else printable(name)
