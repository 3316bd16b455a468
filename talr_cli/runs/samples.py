"""Reads a run's prompts and answers, for the domain and each task: JSON lines in `samples/`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from talr_cli.runs.damage import warn_of_damaged_lines, warn_once
from talr_cli.runs.reading import open_regular_file, read_lines

T = TypeVar("T")
_DOC_ID = re.compile(rb'\{"doc_id": (\d+)[,}]')


def read_samples(folder: Path, part: str) -> list[dict[str, Any]]:
    """The records of `domain` or of `general/TASK`; empty if the run has none.

    Damaged lines are left out with a warning.
    """
    found: list[dict[str, Any]] = []

    def take(record: dict[str, Any]) -> None:
        if part == "domain":
            _check(record)
        found.append(record)

    _for_each_record(folder, part, take)
    return found


def read_items(
    folder: Path, part: str, wanted: Collection[str], read: Callable[[dict[str, Any]], T]
) -> dict[str, T]:
    """{item: result of `read` for its record} of the wanted items.

    The files of benchmarks are large, so the lines of other items are not parsed.

    Args:
        part: The same as for `read_samples`.
        read: Raises ValueError, TypeError or LookupError if a record is damaged.
    """
    key = "id" if part == "domain" else "doc_id"
    found: dict[str, T] = {}

    def take(record: dict[str, Any]) -> None:
        item = str(record[key])
        if item in wanted and found.get(item) is None:  # lm-eval has a record for each filter
            found[item] = read(record)

    def is_other(line: bytes) -> bool:
        number = _DOC_ID.match(line)
        return number is not None and number[1].decode() not in wanted

    if wanted:
        _for_each_record(folder, part, take, is_other)
    return found


def _for_each_record(
    folder: Path,
    part: str,
    take: Callable[[dict[str, Any]], None],
    is_left_out: Callable[[bytes], bool] = lambda line: False,
) -> None:
    """Call `take` with every record; warn of lines that are damaged or on which it fails."""
    file = folder / f"{part.replace('/', '-')}.jsonl"
    if not file.exists():
        return
    damaged = []
    try:
        with open_regular_file(file) as lines:
            for number, line in enumerate(read_lines(lines), 1):
                if is_left_out(line):
                    continue
                try:
                    record = json.loads(line.decode("utf-8"))
                    if not isinstance(record, dict):
                        raise ValueError("not an object")
                    take(record)
                except (ValueError, TypeError, LookupError, RecursionError):
                    damaged.append(number)
    except (OSError, ValueError) as error:
        warn_once(f"{file} cannot be read ({error}): left out")
    warn_of_damaged_lines(file, damaged)


def _check(record: dict[str, Any]) -> None:
    """Raise TypeError or LookupError if a record of the domain cannot be shown."""
    _ = record["id"], record["output"]
    messages = record.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise TypeError("no messages")
