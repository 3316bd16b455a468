"""Warnings about damaged files: one line per file, logged once per process."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)


@functools.cache
def warn_once(message: str) -> None:
    log.warning("%s", message)


def warn_of_damaged_lines(file: Path, numbers: Sequence[int]) -> None:
    """Warn that these lines of a file (counted from 1) are skipped."""
    if numbers:
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        warn_once(f"{file}: line {numbers[0]}{more} damaged, left out")
