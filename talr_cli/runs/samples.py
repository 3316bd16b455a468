"""What a run was asked and answered, for the domain and each task: JSON lines in `samples/`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from talr_cli.runs.damage import warn_of_lines, warn_once
from talr_cli.runs.reading import opened

T = TypeVar("T")
_DOC_ID = re.compile(rb'\{"doc_id": (\d+)[,}]')


def read_samples(folder: Path, part: str) -> list[dict[str, Any]]:
    """The records of `domain` or of `general/TASK`; empty where the run kept none.

    Damaged lines are left out, and a line of the log says so.
    """
    found: list[dict[str, Any]] = []

    def take(record: dict[str, Any]) -> None:
        if part == "domain":
            _check(record)
        found.append(record)

    _each(folder, part, take)
    return found


def read_items(
    folder: Path, part: str, wanted: Collection[str], read: Callable[[dict[str, Any]], T]
) -> dict[str, T]:
    """{item: what `read` makes of its record}, of the wanted items; as `read_samples` otherwise.

    Files of benchmarks are large: lines of other items are not parsed.

    Args:
        read: Raises ValueError, TypeError or LookupError where a record is damaged.
    """
    key = "id" if part == "domain" else "doc_id"
    found: dict[str, T] = {}

    def take(record: dict[str, Any]) -> None:
        item = str(record[key])
        if item in wanted and found.get(item) is None:  # lm-eval lists one once for each filter
            found[item] = read(record)

    def is_other(line: bytes) -> bool:
        number = _DOC_ID.match(line)
        return number is not None and number[1].decode() not in wanted

    if wanted:
        _each(folder, part, take, is_other)
    return found


def _each(
    folder: Path,
    part: str,
    take: Callable[[dict[str, Any]], None],
    is_left_out: Callable[[bytes], bool] = lambda line: False,
) -> None:
    """Give every record to `take`; lines that are damaged or that it fails on are named."""
    file = folder / f"{part.replace('/', '-')}.jsonl"
    if not file.exists():
        return
    damaged = []
    try:
        with opened(file) as lines:
            for number, line in enumerate(lines, 1):
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
    warn_of_lines(file, damaged)


def _check(record: dict[str, Any]) -> None:
    """A record of the domain, which is shown to people; raises TypeError where it cannot be."""
    messages = record.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise TypeError("no messages")
