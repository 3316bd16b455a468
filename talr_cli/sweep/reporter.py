"""Reports a running sweep to the user: a line when a job starts or ends, and its progress.

Reads run directories; does not decide which jobs run, nor where.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from talr_cli import progress
from talr_cli.progress import clock
from talr_cli.statistics.pairs import PARTS, measured_alike, score_of
from talr_cli.sweep import needs
from talr_cli.sweep.jobs import Job, Outcome

Kind = tuple[str, bool]
log = logging.getLogger(__name__)


class Reporter:
    """Reports the jobs of a sweep, `workers` of which run at a time.

    Args:
        queued: Whether jobs wait in a cluster's queue before they start.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, queued: bool = False) -> None:
        self._jobs = jobs
        self._workers = workers
        self._queued = queued
        self._running: dict[Path, tuple[Job, float]] = {}
        self._ended: set[Path] = set()
        self._reported: set[Path] = set()
        self._durations: dict[Kind, list[float]] = {}  # seconds of the jobs that ended here
        self._estimate: float | None = None  # seconds left at the time `_estimated_at`
        self._estimated_at = 0.0

    def _update_estimate(self, outcomes: Mapping[Path, Outcome]) -> None:
        """Estimate the remaining time from the jobs that have ended."""
        if self._estimated_at and len(outcomes) == len(self._ended):
            return
        self._ended = set(outcomes)
        left = [job for job in self._jobs if job.directory.path not in outcomes]
        kinds = [_kind(job) for job in left]
        if all(kind in self._durations for kind in kinds):
            self._estimate = sum(mean(self._durations[kind]) for kind in kinds) / self._workers
        else:
            self._estimate = needs.estimate_seconds(left, self._workers)
        self._estimated_at = time.monotonic()

    def job_started(self, job: Job, outcomes: Mapping[Path, Outcome]) -> None:
        """Report that the launcher starts the job."""
        self._update_estimate(outcomes)
        number = len(self._ended) + len(self._running) + 1
        self._running[job.directory.path] = (job, time.time())
        word = "goes to the queue" if self._queued else "starts"
        log.info("%d/%d %s: %s", number, len(self._jobs), word, job.log)

    def job_left(self, job: Job) -> None:
        """Note that the job does not run here, as another process makes the same run."""
        self._running.pop(job.directory.path, None)

    def job_ended(self, job: Job, outcome: Outcome, outcomes: Mapping[Path, Outcome]) -> None:
        """Report that the job has ended with this outcome."""
        self.job_left(job)
        if outcome.result == "done":
            self._durations.setdefault(_kind(job), []).append(outcome.seconds)
        self._update_estimate(outcomes)
        scores = _scores_text(job, self._jobs) if outcome.is_good else ""
        log.info(
            "%d/%d %s in %s: %s%s",
            *(len(outcomes), len(self._jobs), outcome.result, clock(outcome.seconds)),
            *(_short_name(job), f": {scores}" if scores else ""),
        )
        if not outcome.is_good:
            log.info("%s", outcome.reason)

    def line(self) -> str:
        """One line with the progress of the sweep and of the run that started first."""
        parts = [f"sweep {len(self._ended)}/{len(self._jobs)} done"]
        if self._estimate is not None:
            left = self._estimate - (time.monotonic() - self._estimated_at)
            parts += [f"{clock(left)} left"] if left > 0 else []
        running = sorted(self._running.values(), key=lambda one: self._is_pending(*one))
        for job, since in running[:1]:
            parts.append(f"{_short_name(job)} {self._activity(job, since)}")
        if len(running) > 1:
            parts.append(f"and {len(running) - 1} more")
        return ", ".join(parts)

    def _activity(self, job: Job, since: float) -> str:
        """What the job is doing, by the latest progress file of its runs."""
        folders = [job.directory.path, *(directory.path for _, directory in job.runs)]
        for folder in dict.fromkeys(folders):
            found = progress.read(folder, since)
            if found is not None:
                self._reported.add(job.directory.path)
                of = f" {found['done']}/{found['total']}" if found["total"] else ""
                left = "" if found["left"] is None else f" {clock(found['left'])} left"
                label = f" {found['label']}" if found["label"] else ""
                return f"{found['what']}{of}{left}{label}"
        word = "ending" if job.directory.path in self._reported else "starting"
        word = "pending" if self._is_pending(job, since) else word
        return f"{word} {clock(time.time() - since)}"

    def _is_pending(self, job: Job, since: float) -> bool:
        """Whether the job waits in the queue: its process touches its log when it starts."""
        try:
            # The clock of a file system may be a little behind.
            return self._queued and job.log.stat().st_mtime < since - 1
        except FileNotFoundError:
            return True
        except OSError:
            return False


def _kind(job: Job) -> Kind:
    """The kind of a job (scoring, training, averaging); jobs of a kind take about as long."""
    return job.command, job.depends_on is None


def _scores_text(job: Job, jobs: Sequence[Job]) -> str:
    """A run's scores, and their change from the base if both were measured in the same way."""
    results = job.directory.read_results()
    if results is None:
        return ""
    base = next((found for one in jobs if (found := _base_results(results, one))), None)
    parts = []
    for part in PARTS:
        score = score_of(results, part)
        if score is None:
            continue
        text = f"{part} {score:.3f}"
        before = None if base is None else score_of(base, part)
        if base is not None and before is not None and measured_alike(base, results, part):
            text += f" ({score - before:+z.3f})"
        parts.append(text)
    return ", ".join(parts)


def _base_results(results: dict[str, Any], job: Job) -> dict[str, Any] | None:
    """The results of a job that scores the base model of these results; else None."""
    base = job.directory.read_results() if job.command == "eval" else None
    if base is None or base["run"]["id"] == results["run"]["id"]:
        return None
    return base if base["run"]["base"] == results["run"]["base"] else None


def _short_name(job: Job) -> str:
    """The name of the run without the identity at its end."""
    return job.directory.path.name.rpartition("-")[0]
