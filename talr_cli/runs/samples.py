"""What a run was asked and what it answered: a file of JSON lines for the domain and each task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from talr_cli.runs.damage import warn_of_lines, warn_once
from talr_cli.runs.reading import opened

Read = TypeVar("Read")


def read_samples(folder: Path, part: str) -> list[dict[str, Any]]:
    """The records of `domain` or of `general/TASK`; empty where the run kept none.

    Damaged lines are left out, and a line of the log says so.
    """
    return list(each_sample(folder, part, _record if part == "domain" else dict))


def each_sample(
    folder: Path,
    part: str,
    read: Callable[[Any], Read],
    is_wanted: Callable[[bytes], bool] = lambda line: True,
) -> Iterator[Read]:
    """What `read` makes of each record, as `read_samples`, one at a time.

    Args:
        read: A record is damaged where it raises ValueError, TypeError or LookupError.
        is_wanted: Of a line; others are passed over.
    """
    file = folder / f"{part.replace('/', '-')}.jsonl"
    if not file.exists():
        return
    damaged = []
    try:
        with opened(file) as lines:
            for number, line in enumerate(lines, 1):
                if not is_wanted(line):
                    continue
                try:
                    found = read(json.loads(line.decode("utf-8")))
                except (ValueError, TypeError, LookupError, RecursionError):
                    damaged.append(number)
                else:
                    yield found
    except ValueError as error:
        warn_once(f"{file} cannot be read ({error}): left out")
    warn_of_lines(file, damaged)


def _record(sample: Any) -> dict[str, Any]:
    """A record of the domain, which people can read.

    Raises:
        ValueError, TypeError: They cannot: it is damaged.
    """
    found = dict(sample)
    messages = found.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise TypeError("no messages")
    return found
