"""What is done about damaged files: a warning once per process, or another name."""

import functools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from talr_cli.runs.disk import explain_write_errors

DAMAGED = ".damaged"  # suffix of damaged files and folders that were put aside

log = logging.getLogger(__name__)


@functools.cache
def warn_once(message: str) -> None:
    log.warning("%s", message)


def warn_of_damaged_lines(file: Path, numbers: Sequence[int]) -> None:
    """Warn that these lines of a file (counted from 1) are skipped."""
    if numbers:
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        warn_once(f"{file}: line {numbers[0]}{more} damaged, left out")


def put_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it can be made again; returns the new path."""
    aside = path.with_name(path.name + DAMAGED)
    with explain_write_errors(path):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        path.rename(aside)
    return aside
