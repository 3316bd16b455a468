"""A table on a terminal of any width: no number is cut and no name is broken.

A table that does not fit gets a lighter frame, then loses the columns that can be spared, which is
said; where that is not enough, every row becomes a block of lines with all its columns.
"""

from __future__ import annotations

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

ENDLESS = 200  # the width in a file or a pipe, to which cells need not be folded
_GAP = 3  # between two values of a block
_INDENT = 2


@dataclass(frozen=True)
class _Frame:
    """How a table is framed; that takes `each` characters a column and `more` in all."""

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
    console = Console(width=None if sys.stdout.isatty() else ENDLESS)
    console.print(fitted(cells, console.width))


def fitted(cells: Cells, width: int) -> RenderableType:
    """The table as it fits into `width` characters."""
    columns, rows = cells.shown()
    spared = [column for column in columns if column.spare]
    for frame in _FRAMES:
        table = _table(columns, rows, frame, width)
        if table is not None:
            return table
    for count in range(1, len(spared) + 1):
        left_out = spared[-count:]
        kept = [place for place, column in enumerate(columns) if column not in left_out]
        own = [[row[place] for place in kept] for row in rows]
        table = _table([columns[place] for place in kept], own, _FRAMES[-1], width)
        if table is not None:
            names = ", ".join(column.title for column in left_out)
            return Group(table, Text(f"left out, as the terminal is narrow: {names}"))
    return _blocks(columns, rows, width)


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], frame: _Frame, width: int
) -> Table | None:
    """The table in a frame, texts folded at blanks only; None where it does not fit."""
    widths, least = [], []
    for place, column in enumerate(columns):
        texts = [column.title, *(row[place].text for row in rows)]
        widths.append(max(map(cell_len, texts)))
        words = [word for text in texts for word in ([text] if column.number else text.split())]
        least.append(max(map(cell_len, words), default=0))
    room = width - frame.each * len(columns) - frame.more
    if sum(least) > room:
        return None
    while sum(widths) > room:
        spare = [have - need for have, need in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    table = Table(box=frame.box, padding=frame.padding, show_edge=frame.edge, pad_edge=frame.edge)
    for column, own in zip(columns, widths, strict=True):
        justify = "right" if column.number else "left"
        table.add_column(Text(column.title), justify=justify, width=own)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell.text) for cell in row))  # names are no markup
    return table


def _blocks(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> RenderableType:
    """A block for each row: the columns before the first number, and below them the others."""
    numbers = [place for place, column in enumerate(columns) if column.number]
    first = numbers[0] if numbers else 1
    body = range(first, len(columns))
    widths = {place: max(cell_len(row[place].text) for row in rows) for place in body if rows}
    parts: list[RenderableType] = []
    for row in rows:
        head = [row[0].text, *(f"{columns[i].title} {row[i].text}" for i in range(1, first))]
        parts.append(Text("  ".join(head), style="bold"))
        line = ""
        for place in body:
            pad = " " * (widths[place] - cell_len(row[place].text))
            text = f"{columns[place].title} {row[place].text}{pad}"
            if line and _INDENT + cell_len(line) + _GAP + cell_len(text.rstrip()) > width:
                parts.append(_indented(line))
                line = ""
            line += " " * _GAP * bool(line) + text
        parts.append(_indented(line))
    return Group(*parts)


def _indented(line: str) -> Padding:
    return Padding(Text(line.rstrip()), (0, 0, 0, _INDENT), expand=False)
