"""A table on a terminal of any width, without cut numbers and broken names.

A table that does not fit gets a lighter frame, then omits its spare columns and says so. If that is
not enough, every row becomes a block of lines with all columns.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from talr_cli.report.tables.cells import Cell, Cells, Column

WIDE = 200  # the width in a file or a pipe
_GAP = 3  # between two values of a block
_INDENT = 2


@dataclass(frozen=True)
class _Frame:
    """A style of frame, which takes `each` characters per column and `more` in total."""

    box: box.Box
    padding: tuple[int, int, int, int]
    each: int
    more: int
    edge: bool


_FRAMES = (
    _Frame(box.HEAVY_HEAD, (0, 1, 0, 1), 3, 1, True),
    _Frame(box.SIMPLE_HEAD, (0, 0, 0, 1), 2, -2, False),
)


def print_cells(cells: Cells) -> None:
    """Print a table to standard output."""
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(fitted(cells, console.width))


def fitted(cells: Cells, width: int) -> RenderableType:
    """The table, laid out for a width in characters."""
    columns, rows = cells.shown()
    spare = [column for column in columns if column.spare]
    for frame in _FRAMES:
        table = _table(columns, rows, frame, width)
        if table is not None:
            return table
    for count in range(1, len(spare) + 1):
        omitted = spare[-count:]
        kept = [index for index, column in enumerate(columns) if column not in omitted]
        own = [[row[index] for index in kept] for row in rows]
        table = _table([columns[index] for index in kept], own, _FRAMES[-1], width)
        if table is not None:
            names = ", ".join(column.title for column in omitted)
            return Group(table, Text(f"left out, as the terminal is narrow: {names}"))
    return _blocks(columns, rows, width)


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], frame: _Frame, width: int
) -> Table | None:
    """The table in a frame, with texts wrapped at spaces only; None if it does not fit."""
    widths, minima = [], []
    for index, column in enumerate(columns):
        texts = [column.title, *(row[index].text for row in rows)]
        widths.append(max(map(cell_len, texts)))
        words = [word for text in texts for word in ([text] if column.number else text.split())]
        minima.append(max(map(cell_len, words), default=0))
    room = width - frame.each * len(columns) - frame.more
    if sum(minima) > room:
        return None
    while sum(widths) > room:
        excess = [own - minimum for own, minimum in zip(widths, minima, strict=True)]
        widths[excess.index(max(excess))] -= 1
    table = Table(box=frame.box, padding=frame.padding, show_edge=frame.edge, pad_edge=frame.edge)
    for column, own in zip(columns, widths, strict=True):
        justify = "right" if column.number else "left"
        table.add_column(Text(column.title), justify=justify, width=own)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell.text) for cell in row))  # Text, as names are not markup
    return table


def _blocks(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> RenderableType:
    """A block for each row: a line of the columns before the first number, then the others."""
    first = next((index for index, column in enumerate(columns) if column.number), 1)
    body = range(first, len(columns))
    widths = {index: max(cell_len(row[index].text) for row in rows) for index in body if rows}
    parts: list[RenderableType] = []
    for row in rows:
        head = [row[0].text, *(f"{columns[i].title} {row[i].text}" for i in range(1, first))]
        parts.append(Text("  ".join(head), style="bold"))
        line = ""
        for index in body:
            pad = " " * (widths[index] - cell_len(row[index].text))
            text = f"{columns[index].title} {row[index].text}{pad}"
            if line and _INDENT + cell_len(line) + _GAP + cell_len(text.rstrip()) > width:
                parts.append(_indented(line))
                line = ""
            line += " " * _GAP * bool(line) + text
        parts.append(_indented(line))
    return Group(*parts)


def _indented(line: str) -> Padding:
    return Padding(Text(line.rstrip()), (0, 0, 0, _INDENT), expand=False)
