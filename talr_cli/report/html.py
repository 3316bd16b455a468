"""The report as one HTML file that needs nothing else: no network, no other file, no script.

Knows tables and pictures; does not know what they show. What a browser may do is limited by the
page's own policy (page.html): nothing is loaded, only the page's script runs, to sort tables.
"""

import base64
import string
from collections.abc import Iterable
from html import escape
from pathlib import Path

from talr_cli.printable import printable
from talr_cli.report.tables.cells import Cell, Cells, Column

TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, summary: str, body: Iterable[str]) -> str:
    """The whole page; `body` is markup, everything else is text."""
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=_text(title), summary=_text(summary), body="\n".join(body))


def section(title: str, body: Iterable[str], level: int = 2) -> str:
    """A heading and what belongs to it."""
    content = "\n".join(body)
    return f"<section>\n<h{level}>{_text(title)}</h{level}>\n{content}\n</section>"


def paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def picture(svg: Path, caption: str) -> str:
    """An SVG file as a data URI: inline, the ids of two pictures would clash."""
    data = base64.b64encode(svg.read_bytes()).decode("ascii")
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def table(cells: Cells) -> str:
    """A table whose cells carry the values that its columns are sorted by."""
    columns, rows = cells.shown()
    header = "".join(
        f'<th scope="col"{_align(column)}>{_text(column.title)}</th>' for column in columns
    )
    lines = "\n".join(f"<tr>{''.join(map(_cell, columns, row))}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _cell(column: Column, cell: Cell) -> str:
    value = "" if cell.value is None else _text(str(cell.value))
    return f'<td data-value="{value}"{_align(column)}>{_text(cell.text)}</td>'


def _text(text: str) -> str:
    return escape(printable(text))


def _align(column: Column) -> str:
    return ' class="number"' if column.number else ""
