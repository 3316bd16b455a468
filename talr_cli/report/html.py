"""Markup of the report's page: one HTML file that needs no network and no other file.

Knows tables and figures; does not know what they show. The template, page.html, has a content
security policy: nothing is loaded, and only the page's own script runs, which sorts tables.
"""

import base64
import re
import string
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from talr_cli.printable import printable, printable_lines
from talr_cli.report.glyphs import glyph
from talr_cli.report.tables.cells import Cell, Cells, Column

TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, summary: str, body: Iterable[str]) -> str:
    """The whole page.

    Args:
        title, summary: Text.
        body: Markup from the other functions here.
    """
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=text(title), summary=text(summary), body="\n".join(body))


def section(title: str, body: Iterable[str], level: int = 2) -> str:
    """A section with its heading."""
    content = "\n".join(body)
    name = f' id="{anchor(title)}"' if level == 2 else ""
    return f"<section{name}>\n<h{level}>{text(title)}</h{level}>\n{content}\n</section>"


def contents(titles: Sequence[str]) -> str:
    """Links to the sections of these titles."""
    links = "".join(f'<li><a href="#{anchor(title)}">{text(title)}</a></li>' for title in titles)
    return f"<nav><ul>{links}</ul></nav>"


def anchor(title: str) -> str:
    """The id by which links find a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def folded(title: str, body: Iterable[str]) -> str:
    """A section that is shown after a click on its title, and in print."""
    content = "\n".join(body)
    return f"<details>\n<summary>{text(title)}</summary>\n{content}\n</details>"


def paragraph(words: str) -> str:
    """A paragraph of text."""
    return f"<p>{text(words)}</p>"


def note(words: str) -> str:
    """A paragraph that explains what is above it."""
    return f'<p class="note">{text(words)}</p>'


def small(words: str) -> str:
    """Text in small letters."""
    return f"<small>{text(words)}</small>"


def text_block(words: str) -> str:
    """Untrusted text with its own line breaks."""
    return f"<pre>{escape(printable_lines(words))}</pre>"


def code_block(lines: Iterable[str]) -> str:
    """Commands, one per line."""
    return f'<pre class="code">{escape(chr(10).join(map(printable, lines)))}</pre>'


def definitions(terms: Iterable[tuple[str, str]], lead: bool = False) -> str:
    """A list of terms and their descriptions.

    Args:
        lead: Whether the first one is shown larger.
    """
    lines = "".join(f"<dt>{text(term)}</dt><dd>{text(about)}</dd>" for term, about in terms)
    kind = ' class="lead"' if lead else ""
    return f"<dl{kind}>{lines}</dl>"


def figure(svg: Path, caption: str) -> str:
    """An SVG file as a data URI, as the ids of two inline SVGs would clash."""
    data = base64.b64encode(svg.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="wide" tabindex="0"><img src="data:image/svg+xml;base64,{data}" '
        f'alt="{text(caption)}"></div><figcaption>{text(caption)}</figcaption></figure>'
    )


def table(cells: Cells) -> str:
    """A table whose cells have the values to sort by, and whose methods have their marks."""
    columns, rows = cells.shown()
    header = "".join(
        f'<th scope="col"{_align(column)}>{text(column.title)}</th>' for column in columns
    )
    lines = "\n".join(f"<tr>{''.join(map(_cell, columns, row))}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def text(words: str) -> str:
    """Untrusted text on one line, escaped."""
    return escape(printable(words))


def _cell(column: Column, cell: Cell) -> str:
    value = "" if cell.value is None else text(str(cell.value))
    mark = glyph(cell.text) if column.key == "method" else ""
    return f'<td data-value="{value}"{_align(column)}>{mark}{text(cell.text)}</td>'


def _align(column: Column) -> str:
    return ' class="number"' if column.number else ""
