"""A table before it has a format, and as Markdown and CSV; latex.py and html.py have the others.

Knows text and numbers; does not know what they mean.
"""

from __future__ import annotations

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
        title: Its name for people; without one it is in CSV and JSON only.
        number: Whether it is aligned to the right.
        error: The CSV column of the cells' errors; None where they have none.
        spare: Whether a narrow terminal may go without it; the last such column goes first.
    """

    key: str
    title: str = ""
    number: bool = False
    error: str | None = None
    spare: bool = False


@dataclass(frozen=True)
class Cell:
    """What people read, and what programs read and sort by: the value and its error."""

    text: str = MISSING
    value: Any = None
    error: float | None = None


@dataclass(frozen=True)
class Cells:
    """A table; rows[i][j] belongs to columns[j]."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def shown(self) -> tuple[list[Column], list[list[Cell]]]:
        """The columns for people, and their cells; each text in one line."""
        places = [place for place, column in enumerate(self.columns) if column.title]
        columns = [self.columns[place] for place in places]
        return (
            [replace(column, title=printable(column.title)) for column in columns],
            [[replace(row[i], text=printable(row[i].text)) for i in places] for row in self.rows],
        )


def named(value: Any) -> Cell:
    """The cell of a name or a number that people read as it is."""
    if value is None:
        return Cell()
    return Cell(rate_text(value) if isinstance(value, float) else str(value), value)


def pair_columns(pairs: int) -> tuple[Column, Column]:
    """Model and dataset; people see them only where there are several pairs of them."""
    return (
        Column("model", "model" if pairs > 1 else ""),
        Column("dataset", "dataset" if pairs > 1 else ""),
    )


def pair_cells(group: Group) -> tuple[Cell, Cell]:
    """The cells of `pair_columns`: the group's names for people, the plain names for programs."""
    first = next(iter(group.runs), None) or group.left_out[0][0]
    run = first["run"]
    return Cell(group.model, run["model"]), Cell(group.dataset, run["dataset"])


def as_markdown(cells: Cells) -> str:
    """For a README or an issue."""
    columns, rows = cells.shown()
    table = [
        [markdown.escaped(column.title) for column in columns],
        ["---:" if column.number else "---" for column in columns],
        *([markdown.escaped(cell.text) for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def as_csv(cells: Cells) -> str:
    """For programs: full precision, each error in a column of its own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header: list[str] = []
    for column in cells.columns:
        header += [column.key, column.error] if column.error else [column.key]
    writer.writerow(map(_plain, header))
    for row in cells.rows:
        values: list[Any] = []
        for column, cell in zip(cells.columns, row, strict=True):
            values += [cell.value, cell.error] if column.error else [cell.value]
        writer.writerow([_plain(one) if isinstance(one, str) else one for one in values])
    return text.getvalue()


def _plain(name: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{printable(name)}" if name.startswith(("=", "+", "-", "@")) else printable(name)
