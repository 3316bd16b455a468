"""What a running sweep tells the user: a line at each start and end of a job, and its progress.

Knows what lies in run directories; does not decide which jobs run, nor where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from talr_cli import progress
from talr_cli.progress import clock
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.pairs import PARTS, measured_alike, score_of
from talr_cli.sweep import needs
from talr_cli.sweep.jobs import Job, Outcome, State

Kind = tuple[str, bool]
log = logging.getLogger(__name__)


class Reporter:
    """Reports the jobs of a sweep, of which `workers` run at a time."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._jobs = jobs
        self._workers = workers
        self._running: dict[Path, tuple[Job, float]] = {}
        self._ended: set[Path] = set()
        self._seen: set[Path] = set()
        self._took: dict[Kind, list[float]] = {}  # seconds of the jobs that ended here
        self._seconds: float | None = None  # that were left at the time `_known`, as estimated
        self._known = 0.0

    def _look(self, outcomes: Mapping[Path, Outcome]) -> None:
        """Estimate the time that is left, from the jobs that have ended."""
        if self._known and len(outcomes) == len(self._ended):
            return
        self._ended = set(outcomes)
        states: list[State] = [
            "done" if job.directory.path in outcomes else "to do" for job in self._jobs
        ]
        left = [_kind(job) for job in self._jobs if job.directory.path not in outcomes]
        if all(kind in self._took for kind in left):
            self._seconds = sum(mean(self._took[kind]) for kind in left) / self._workers
        else:
            self._seconds = needs.seconds_of(self._jobs, states, self._workers)
        self._known = time.monotonic()

    def starts(self, job: Job, outcomes: Mapping[Path, Outcome]) -> None:
        """The launcher starts the job."""
        self._look(outcomes)
        number = len(self._ended) + len(self._running) + 1
        self._running[job.directory.path] = (job, time.time())
        log.info("%d/%d starts: %s", number, len(self._jobs), job.log)

    def leaves(self, job: Job) -> None:
        """The job does not run here, since another process makes the same run."""
        self._running.pop(job.directory.path, None)

    def ends(self, job: Job, outcome: Outcome, outcomes: Mapping[Path, Outcome]) -> None:
        """The job has ended with this outcome."""
        self.leaves(job)
        if outcome.word == "done":
            self._took.setdefault(_kind(job), []).append(outcome.seconds)
        self._look(outcomes)
        scores = _scores(job, self._jobs) if outcome.is_good else ""
        log.info(
            "%d/%d %s in %s: %s%s",
            *(len(outcomes), len(self._jobs), outcome.word, clock(outcome.seconds)),
            *(_short(job), f": {scores}" if scores else ""),
        )
        if not outcome.is_good:
            log.info("%s", outcome.reason)

    def line(self) -> str:
        """The progress of the sweep in one line, and that of the run that started first."""
        parts = [f"sweep {len(self._ended)}/{len(self._jobs)} done"]
        left = self._left()
        if left is not None and left > 0:
            parts.append(f"{clock(left)} left")
        running = list(self._running.values())
        for job, since in running[:1]:
            parts.append(f"{_short(job)} {self._at(job, since)}")
        if len(running) > 1:
            parts.append(f"and {len(running) - 1} more")
        return ", ".join(parts)

    def _left(self) -> float | None:
        if self._seconds is None:
            return None
        return self._seconds - (time.monotonic() - self._known)

    def _at(self, job: Job, since: float) -> str:
        """What the job is doing, by the latest progress file of its runs."""
        folders = [job.directory.path, *(directory.path for _, directory in job.runs)]
        for folder in dict.fromkeys(folders):
            found = progress.read(folder, since)
            if found is not None:
                self._seen.add(job.directory.path)
                of = f" {found['done']}/{found['total']}" if found["total"] else ""
                left = "" if found["left"] is None else f" {clock(found['left'])} left"
                label = f" {found['label']}" if found["label"] else ""
                return f"{found['what']}{of}{left}{label}"
        word = "ending" if job.directory.path in self._seen else "starting"
        return f"{word} {clock(time.time() - since)}"


def _kind(job: Job) -> Kind:
    """The kind of a job: jobs of one kind take about as long (scoring, training, averaging)."""
    return job.command, job.needs is None


def _scores(job: Job, jobs: Sequence[Job]) -> str:
    """A run's scores, and their change from the base where both were measured in the same way."""
    results = _read(job.directory)
    if results is None:
        return ""
    base = next((found for one in jobs if (found := _base_of(results, one))), None)
    words = []
    for part in PARTS:
        score = score_of(results, part)
        if score is None:
            continue
        word = f"{part} {score:.3f}"
        before = None if base is None else score_of(base, part)
        if base is not None and before is not None and measured_alike(base, results, part):
            word += f" ({score - before:+z.3f})"
        words.append(word)
    return ", ".join(words)


def _base_of(results: dict[str, Any], one: Job) -> dict[str, Any] | None:
    if one.command != "eval":
        return None
    base = _read(one.directory)
    if base is None or base["run"]["id"] == results["run"]["id"]:
        return None
    return base if base["run"]["base"] == results["run"]["base"] else None


def _read(directory: RunDirectory) -> dict[str, Any] | None:
    return directory.read_results() if directory.results.exists() else None


def _short(job: Job) -> str:
    """The name of its run without the hash at its end."""
    return job.directory.path.name.rpartition("-")[0]
