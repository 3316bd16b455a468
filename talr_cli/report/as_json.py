"""What a command gives for `json=`: one object, as docs/json.md describes it.

Knows where it goes; the content is the command's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from talr_cli import __version__
from talr_cli.errors import UserError
from talr_cli.report.tables.cells import Cells
from talr_cli.runs.atomic import nan_to_null, write_text

SCHEMA = 1


def give(
    command: str, target: str | None, content: Mapping[str, Any], show: Callable[[], None]
) -> None:
    """Show what a command found, and write it as JSON.

    Args:
        target: A file; `-` for the standard output, where nothing else is shown then; or None.
        show: Prints it for people.
    """
    if target != "-":
        show()
    if target is None:
        return
    head = {"schema": SCHEMA, "command": command, "talr": __version__}
    text = json.dumps(nan_to_null({**head, **content}), indent=2, allow_nan=False)
    if target == "-":
        print(text)
        return
    write_text(Path(target), text + "\n")


def check_target(target: str | None) -> None:
    """Raise UserError where the file's folder is missing, before the command takes its time."""
    if target not in (None, "-") and not Path(str(target)).absolute().parent.is_dir():
        raise UserError(f"json={target}: {Path(str(target)).parent} is not a directory")


def rows_of(cells: Cells) -> list[dict[str, Any]]:
    """{key: value} of every row of a table, as its CSV has them, in full precision."""
    return [dict(_values(cells, place)) for place in range(len(cells.rows))]


def _values(cells: Cells, place: int) -> Iterator[tuple[str, Any]]:
    for column, cell in zip(cells.columns, cells.rows[place], strict=True):
        yield column.key, cell.value
        if column.error:
            yield column.error, cell.error
