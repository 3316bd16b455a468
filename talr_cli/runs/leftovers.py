"""Finds and deletes files on disk that are no longer needed.

Knows run directories and caches; leaves alone the runs that a process is working on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from talr_cli.errors import InUseError
from talr_cli.runs.atomic import BUILDING
from talr_cli.runs.damage import DAMAGED
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.lease import hold
from talr_cli.runs.listing import FoundRun, size_on_disk
from talr_cli.runs.run_directory import LOCK
from talr_cli.runs.study import SCORES

DAY = 86400.0  # seconds


@dataclass(frozen=True)
class Leftover:
    """A file or folder, why it is not needed, its size in bytes, and the run it belongs to."""

    path: Path
    why: str
    size: int
    run: Path | None = None


def run_leftovers(found: FoundRun, models: bool) -> Iterator[Leftover]:
    """The leftovers of one run; none while a process is working on it.

    Args:
        models: Whether to include the weights of scored runs.
    """
    run = found.directory
    if run.owner() is not None or _leads_out(run.path, of=run.path.parents[1]):
        return
    is_scored = run.results.exists() and run.read_results() is not None
    is_trained = run.training.exists() and (run.model.exists() or is_scored)
    reasons: dict[Path, str] = {}
    if run.checkpoints.exists() and is_trained:
        reasons[run.checkpoints] = "checkpoints of finished runs"
    reasons |= dict.fromkeys(run.path.glob(f"*{DAMAGED}"), "damaged, and put aside")
    reasons |= dict.fromkeys(run.unfinished(), "left by a process that was killed")
    if models and is_trained and is_scored:
        for weights in (run.model, run.adapter):
            if weights.exists():
                reasons[weights] = "models of scored runs"
    for path, why in reasons.items():
        yield Leftover(path, why, size_on_disk(path), run.path)


def unused_scores(study: Path, days: float) -> Iterator[Leftover]:
    """The cached scores of a study that were not read for so many days."""
    if not _leads_out(study / SCORES, of=study):
        yield from _unused(study / SCORES, days, "cached scores that nobody reads")


def cache_leftovers(cache: Path, days: float, models: bool) -> Iterator[Leftover]:
    """The entries of talr's own cache that were not read for so many days.

    Args:
        models: Whether to include converted and random models.
    """
    for kind in ("base_losses", "own_answers", "digests"):
        yield from _unused(cache / kind, days, "cache entries that nobody reads")
    for path in sorted((cache / "models").glob("*")):
        is_unfinished = path.name.startswith(BUILDING)
        if path.is_dir() and (is_unfinished or models) and _days_unused(path) > max(days, 1):
            why = "left by a process that was killed" if is_unfinished else "models of the cache"
            yield Leftover(path, why, size_on_disk(path))


def delete(leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Delete them, except those of runs that a process is working on by now.

    Returns:
        Those that were deleted.

    Raises:
        UserError: The system refuses to delete one.
    """
    deleted = []
    for leftover in leftovers:
        with suppress(InUseError):
            if leftover.run is None:
                remove(leftover.path)
            else:
                with hold(leftover.run / LOCK):
                    remove(leftover.path)
            deleted.append(leftover)
    return deleted


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it exists; UserError if the system refuses."""
    with explain_write_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _leads_out(path: Path, of: Path) -> bool:
    """Whether it is, or lies behind, a link out of a folder: what is there is not the folder's."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(of))


def _unused(folder: Path, days: float, why: str) -> Iterator[Leftover]:
    for path in sorted(folder.glob("*")):
        if path.is_file() and _days_unused(path) > days:
            yield Leftover(path, why, size_on_disk(path))


def _days_unused(path: Path) -> float:
    """Days since it, or anything in it, was read or written, by the file system's times."""
    newest = 0.0
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    for file in files:
        with suppress(OSError):
            times = os.lstat(file)
            read = 0.0 if file.is_dir() else times.st_atime  # listing a folder is not using it
            newest = max(newest, times.st_mtime, read)
    return (time.time() - newest) / DAY
