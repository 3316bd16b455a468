"""Reads metrics.jsonl, which has a row for each step; some rows may be damaged."""

import json
import math
from pathlib import Path
from typing import Any

from talr_cli.runs.damage import warn_of_damaged_lines, warn_once
from talr_cli.runs.reading import read_file


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The intact rows; a last line cut off by a crash is left out, damaged ones with a warning."""
    if not file.exists():
        return []
    # Without its newline the last line was cut off, even if it happens to parse.
    try:
        complete, newline, _ = read_file(file).rpartition(b"\n")
    except (OSError, ValueError) as error:
        warn_once(f"{file} cannot be read ({error}): left out")
        return []
    rows = [_parse_row(line) for line in complete.split(b"\n")] if newline else []
    damaged = [number for number, row in enumerate(rows, start=1) if row is None]
    warn_of_damaged_lines(file, damaged)
    return [row for row in rows if row is not None]


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """{"step": int, name: number or None}; None if the line is something else."""
    try:
        row = json.loads(line.decode("utf-8"))
        if type(row["step"]) is int and all(
            value is None or math.isfinite(value) for value in row.values()
        ):
            return row
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        pass
    return None
