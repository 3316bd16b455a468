"""A table before it has a format, and its formats: Markdown and CSV; LaTeX and HTML lie elsewhere.

Knows text and numbers; does not know what they mean.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """`error` names the CSV column of the uncertainty; without a title a column is in CSV only."""

    key: str
    title: str = ""
    number: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Cell:
    """What people read, and what programs read and sort by."""

    text: str = MISSING
    value: Any = None
    error: float | None = None


@dataclass(frozen=True)
class Cells:
    """rows[i][j] belongs to columns[j]."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def shown(self) -> tuple[list[Column], list[list[Cell]]]:
        """The columns for people, and their cells."""
        places = [place for place, column in enumerate(self.columns) if column.title]
        return (
            [self.columns[place] for place in places],
            [[row[place] for place in places] for row in self.rows],
        )


def named(value: Any) -> Cell:
    """The cell of a name or a setting."""
    if value is None:
        return Cell()
    return Cell(f"{value:g}" if isinstance(value, float) else str(value), value)


def pair_columns(pairs: int) -> tuple[Column, Column]:
    """Model and dataset, which people need to see only where there are several pairs of them."""
    return (
        Column("model", "model" if pairs > 1 else ""),
        Column("dataset", "dataset" if pairs > 1 else ""),
    )


def as_markdown(cells: Cells) -> str:
    """For a README or an issue."""
    columns, rows = cells.shown()
    table = [
        [column.title for column in columns],
        ["---:" if column.number else "---" for column in columns],
        *([cell.text.replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def as_csv(cells: Cells) -> str:
    """For programs: full precision, each uncertainty in a column of its own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header: list[str] = []
    for column in cells.columns:
        header += [column.key, column.error] if column.error else [column.key]
    writer.writerow(header)
    for row in cells.rows:
        values: list[Any] = []
        for column, cell in zip(cells.columns, row, strict=True):
            values += [cell.value, cell.error] if column.error else [cell.value]
        writer.writerow(values)
    return text.getvalue()
