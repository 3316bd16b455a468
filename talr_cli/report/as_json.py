"""The output of a command for `json=`: one object, described in docs/json.md.

Writes it; the content comes from the command.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from talr_cli import __version__
from talr_cli.errors import UserError
from talr_cli.report.tables.cells import Cells
from talr_cli.runs.atomic import nan_to_null, write_text

SCHEMA = 1


def emit(
    command: str, target: str | None, content: Mapping[str, Any], show: Callable[[], None]
) -> None:
    """Show the results of a command to people, and write them as JSON.

    Args:
        target: A file; `-` for the standard output, which then has nothing else; or None.
        show: Prints the results for people.
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
    """Raise UserError if the folder of the file is missing, before the command does any work."""
    if target not in (None, "-") and not Path(str(target)).absolute().parent.is_dir():
        raise UserError(f"json={target}: {Path(str(target)).parent} is not a directory")


def rows_of(cells: Cells) -> list[dict[str, Any]]:
    """{key: value} of every row of a table in full precision, with the keys of its CSV."""
    return [dict(zip(cells.keys(), row, strict=True)) for row in cells.values()]
