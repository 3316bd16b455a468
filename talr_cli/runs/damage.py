"""Damaged files are named in one line, once in a process, however often they are read."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)


@functools.cache
def warn_once(message: str) -> None:
    log.warning("%s", message)


def warn_of_lines(file: Path, numbers: Sequence[int]) -> None:
    """Say which lines of a file, counted from 1, are left out; nothing where there are none."""
    if numbers:
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        warn_once(f"{file}: line {numbers[0]}{more} damaged, left out")
