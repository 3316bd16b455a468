"""What a run was asked and what it answered: a file of JSON lines for the domain and each task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from talr_cli.runs.damage import warn_of_lines, warn_once
from talr_cli.runs.reading import read_file


def read_samples(folder: Path, part: str) -> list[dict[str, Any]]:
    """The records of `domain` or of `general/TASK`; empty where the run kept none.

    Damaged lines are left out, and a line of the log says so.
    """
    file = folder / f"{part.replace('/', '-')}.jsonl"
    if not file.exists():
        return []
    rows, damaged = [], []
    try:
        lines = read_file(file).splitlines()
    except ValueError as error:
        warn_once(f"{file} cannot be read ({error}): left out")
        return []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode("utf-8"))
            if not isinstance(row, dict):
                raise ValueError("not an object")
            rows.append(row)
        except (ValueError, RecursionError):
            damaged.append(number)
    warn_of_lines(file, damaged)
    return rows
