"""Makes the jobs of a plan, whatever happens to each, and says what became of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from talr_cli.errors import IN_USE
from talr_cli.sweep.jobs import Ended, Job, Launcher
from talr_cli.sweep.plan import is_finished, state

log = logging.getLogger(__name__)

POLL = 2.0  # seconds between looks at runs that another process makes
INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """What became of a job: done, found done, failed, diverged, not started."""

    word: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.word in ("done", "found done")


def drive(jobs: Sequence[Job], launcher: Launcher, retry_failed: bool) -> dict[Path, Outcome]:
    """Make what is left to do of the jobs; {run directory: what became of it}, of every job.

    A job waits for the run that it needs, and for another process that makes the same run; when
    that process is gone without having finished, the job is made here.
    """
    outcomes: dict[Path, Outcome] = {}
    tried: set[Path] = set()

    def left() -> list[Job]:
        return [job for job in jobs if job.directory.path not in outcomes]

    def ready() -> Iterator[Job]:
        """Jobs that can start now, as long as there are any, looked at when they are asked for."""
        for job in left():
            path = job.directory.path
            need = None if job.needs is None else outcomes.get(job.needs.path)
            if job.needs is not None and need is None:
                continue
            now = state(job)
            if now == "done":
                outcomes[path] = Outcome("found done")
            elif now == "elsewhere":
                continue
            elif job.needs is not None and need is not None and not need.is_good:
                outcomes[path] = Outcome("not started", f"{job.needs.path.name}: {need.word}")
            elif now == "failed" and not retry_failed and path not in tried:
                word = job.directory.read_status().state
                outcomes[path] = Outcome(word, "from before; retry_failed=true makes it again")
            else:
                tried.add(path)
                yield job

    while left():
        before = len(outcomes)
        for ended in launcher.submit(ready()):
            outcome = _outcome(ended)
            if outcome is not None:
                outcomes[ended.job.directory.path] = outcome
                _announce(ended.job, outcome, len(outcomes), len(jobs))
        if len(outcomes) == before and left():
            time.sleep(POLL)
    return outcomes


def _outcome(ended: Ended) -> Outcome | None:
    """What became of the job; None where another process was making the same run."""
    job, code = ended.job, ended.exit_code
    if code == IN_USE:
        return None
    if code == 0 and is_finished(job):
        return Outcome("done", seconds=ended.seconds)
    last_lines = job.last_lines()
    if code < 0:
        return Outcome("failed", f"killed by signal {-code}\n{last_lines}", ended.seconds)
    status = job.directory.read_status()
    if status.state not in ("failed", "diverged"):
        # It ended before the run began, for example because a data file is missing.
        job.directory.write_status("failed", last_lines)
        return Outcome("failed", last_lines, ended.seconds)
    return Outcome(status.state, status.reason or last_lines, ended.seconds)


def _announce(job: Job, outcome: Outcome, ended: int, total: int) -> None:
    log.info(
        "%d/%d %s: %s, %.0f s", ended, total, job.directory.path, outcome.word, outcome.seconds
    )
    if not outcome.is_good:
        log.info("%s", outcome.reason)
