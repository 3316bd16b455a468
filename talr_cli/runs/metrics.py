"""The rows of a metrics.jsonl: one for each step, of which some may be damaged."""

import json
import math
from pathlib import Path
from typing import Any

from talr_cli.runs.damage import warn_of_lines, warn_once
from talr_cli.runs.reading import read_file


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line torn by a crash is left out, damaged ones with a warning."""
    if not file.exists():
        return []
    # Without its newline the last line is torn, even where it happens to parse.
    try:
        whole, newline, _ = read_file(file).rpartition(b"\n")
    except (OSError, ValueError) as error:
        warn_once(f"{file} cannot be read ({error}): left out")
        return []
    rows = [_row(line) for line in whole.split(b"\n")] if newline else []
    damaged = [number for number, row in enumerate(rows, start=1) if row is None]
    warn_of_lines(file, damaged)
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """A step, and numbers or nulls by name; None where a line is not that."""
    try:
        row = json.loads(line.decode("utf-8"))
        if type(row["step"]) is int and all(
            value is None or math.isfinite(value) for value in row.values()
        ):
            return row
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        pass
    return None
