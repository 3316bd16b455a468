"""What `json=` gives of a command: one object, as docs/json.md describes it.

Knows where it goes; what is in it is the command's affair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from talr_cli import __version__
from talr_cli.errors import UserError
from talr_cli.report.tables.cells import Cells
from talr_cli.runs.atomic import finite, write_text

SCHEMA = 1


def give(
    command: str, target: str | None, content: Mapping[str, Any], show: Callable[[], None]
) -> None:
    """Show it to people, and write it to the file `target`; to `-` alone instead of people."""
    if target != "-":
        show()
    if target is None:
        return
    head = {"schema": SCHEMA, "command": command, "talr": __version__}
    text = json.dumps(finite({**head, **content}), indent=2, allow_nan=False)
    if target == "-":
        print(text)
        return
    write_text(Path(target), text + "\n")


def check_target(target: str | None) -> None:
    """Raise UserError where the file cannot be made, before anything takes its time."""
    if target not in (None, "-") and not Path(str(target)).absolute().parent.is_dir():
        raise UserError(f"json={target}: {Path(str(target)).parent} is not a directory")


def rows_of(cells: Cells) -> list[dict[str, Any]]:
    """A table as it is in its CSV: {key: value} of every row, in full precision."""
    return [dict(_values(cells, place)) for place in range(len(cells.rows))]


def _values(cells: Cells, place: int) -> Iterator[tuple[str, Any]]:
    for column, cell in zip(cells.columns, cells.rows[place], strict=True):
        yield column.key, cell.value
        if column.error:
            yield column.error, cell.error
