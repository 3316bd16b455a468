"""Reads metrics.jsonl, which has a row for each step; some rows may be damaged."""

import json
from pathlib import Path
from typing import Any

from talr_cli.runs.damage import warn_of_damaged_lines, warn_once
from talr_cli.runs.reading import read_file

LARGEST = 1e100  # the largest number that is read; far larger ones overflow in sums and in figures


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The intact rows; a last line cut off by a crash is left out, damaged ones with a warning.

    Repeated rows are left out: a process that was suspended and taken for dead may write one when
    it wakes, before it sees that the run has another owner.
    """
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
    # A step may have two rows, of the training and of the validation, which have other names.
    first: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows:
        if row is not None:
            first.setdefault((row["step"], *row), row)
    return list(first.values())


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """{"step": int, name: number or None}; None if the line is something else."""
    try:
        row = json.loads(line.decode("utf-8"))
        if type(row["step"]) is int and all(
            value is None or abs(value) < LARGEST for value in row.values()
        ):
            return row
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        pass
    return None
