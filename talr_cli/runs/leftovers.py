"""What lies on disk and nothing needs any more, and deleting it.

Knows run directories and folders of caches; a run that a process makes now is nobody else's.
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
from talr_cli.runs.disk import writing
from talr_cli.runs.lease import hold
from talr_cli.runs.listing import Found, size_of
from talr_cli.runs.run_directory import DAMAGED, LOCK, UNFINISHED
from talr_cli.runs.study import SCORES

DAY = 86400.0  # seconds


@dataclass(frozen=True)
class Leftover:
    """A file or a folder, why nothing needs it, its bytes, and the run that it belongs to."""

    path: Path
    why: str
    size: int
    run: Path | None = None


def of_run(found: Found, models: bool) -> Iterator[Leftover]:
    """The leftovers of one run; none while a process makes it.

    Args:
        models: Whether the weights of a scored run count as one.
    """
    run = found.directory
    if run.owner() is not None:
        return
    is_scored = run.results.exists() and run.read_results() is not None
    is_made = run.training.exists() and (run.model.exists() or is_scored)
    reasons: dict[Path, str] = {}
    if run.checkpoints.exists() and is_made:
        reasons[run.checkpoints] = "checkpoints of finished runs"
    reasons |= dict.fromkeys(run.path.glob(f"*{DAMAGED}"), "damaged, and put aside")
    for pattern in UNFINISHED:
        reasons |= dict.fromkeys(run.path.glob(pattern), "left by a process that was killed")
    if models and is_made and is_scored:
        for weights in (run.model, run.adapter):
            if weights.exists():
                reasons[weights] = "models of scored runs"
    for path, why in reasons.items():
        yield Leftover(path, why, size_of(path), run.path)


def of_scores(study: Path, days: float) -> Iterator[Leftover]:
    """Scores kept in a study that nobody has read for so long; they can be made again."""
    yield from _unused(study / SCORES, days, "scores of tasks that nobody reads")


def of_cache(cache: Path, days: float, models: bool) -> Iterator[Leftover]:
    """The entries of talr's own cache that nobody has read for so long.

    Args:
        models: Whether converted and random models count too.
    """
    for kind in ("base_losses", "own_answers", "digests"):
        yield from _unused(cache / kind, days, "cache entries that nobody reads")
    for path in sorted((cache / "models").glob("*")):
        is_unfinished = path.name.startswith(BUILDING)
        if path.is_dir() and (is_unfinished or models) and _days_unused(path) > max(days, 1):
            why = "left by a process that was killed" if is_unfinished else "models of the cache"
            yield Leftover(path, why, size_of(path))


def delete(leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Delete them but those of runs that a process has begun to make meanwhile; what is gone.

    Raises:
        UserError: The system does not let us.
    """
    gone = []
    for one in leftovers:
        with suppress(InUseError):
            if one.run is None:
                remove(one.path)
            else:
                with hold(one.run / LOCK):
                    remove(one.path)
            gone.append(one)
    return gone


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; one that is not there is gone already.

    Raises:
        UserError: The system does not let us.
    """
    with writing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _unused(folder: Path, days: float, why: str) -> Iterator[Leftover]:
    for path in sorted(folder.glob("*")):
        if path.is_file() and _days_unused(path) > days:
            yield Leftover(path, why, size_of(path))


def _days_unused(path: Path) -> float:
    """Since it, or anything in it, was read or written, by the file system's own times."""
    newest = 0.0
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    for file in files:
        with suppress(OSError):
            times = os.lstat(file)
            read = 0.0 if file.is_dir() else times.st_atime  # a look into a folder is no use of it
            newest = max(newest, times.st_mtime, read)
    return (time.time() - newest) / DAY
