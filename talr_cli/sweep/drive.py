"""Runs the jobs of a plan, even if some fail, and returns the outcome of each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from talr_cli import progress
from talr_cli.errors import IN_USE, UnwritableError, UserError
from talr_cli.interruption import Stop, killed_by
from talr_cli.run.execute import is_done
from talr_cli.runs.disk import make_folder
from talr_cli.runs.status import State
from talr_cli.sweep.jobs import INTERRUPTED, EndedJob, Job, Launcher, Outcome
from talr_cli.sweep.plan import job_state
from talr_cli.sweep.prune import prune
from talr_cli.sweep.reporter import Reporter

POLL = 2.0  # seconds between checks of runs that other processes are making
_ANOTHER = (
    "its command has made another run, because a config file, the data or the code has changed "
    "since the sweep began: start the sweep again to plan anew"
)


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher,
    retry_failed: bool,
    keep: str,
    stop: Stop,
    workers: int = 1,
) -> dict[Path, Outcome]:
    """Run the unfinished jobs; returns {run directory: outcome}.

    A job waits for the run that it depends on, and for another process that makes the same run. If
    that process ends without finishing the run, the job is started here. After a requested stop,
    jobs that were not started have no outcome.

    Args:
        workers: How many jobs the launcher runs at a time, to estimate the remaining time.
    """
    reporter = Reporter(jobs, workers, launcher.queued)
    outcomes: dict[Path, Outcome] = {}
    paths = {job.directory.path for job in jobs}

    def ready() -> Iterator[Job]:
        """The jobs that can start now, checked when the launcher asks for the next one."""
        for job in jobs:
            path = job.directory.path
            if stop.requested:
                return
            if path in outcomes:
                continue
            if job.depends_on is not None and job.depends_on.path in paths - outcomes.keys():
                continue
            found = _outcome_without_starting(job, outcomes, retry_failed)
            if found is not None:
                outcomes[path] = found
            elif job.directory.owner() is None:
                reporter.job_started(job, outcomes)
                yield job

    def succeeded() -> set[Path]:
        return {path for path, outcome in outcomes.items() if outcome.is_good}

    with progress.work("sweep", text=reporter.line):
        while len(outcomes) < len(jobs) and not stop.requested:
            before = len(outcomes)
            with closing(launcher.submit(ready(), stop)) as launched:
                for ended in launched:
                    outcome = _outcome(ended)
                    if outcome is None:
                        reporter.job_left(ended.job)
                        continue
                    outcomes[ended.job.directory.path] = outcome
                    reporter.job_ended(ended.job, outcome, outcomes)
                    prune(jobs, outcomes, succeeded(), keep)
            if len(outcomes) == before:
                time.sleep(POLL)
        prune(jobs, outcomes, succeeded(), keep)
    return outcomes


def _outcome_without_starting(
    job: Job, outcomes: dict[Path, Outcome], retry_failed: bool
) -> Outcome | None:
    """The outcome of a job that need not, or must not, be started; None for the others."""
    state = job_state(job)
    if state == "done":
        return Outcome("found done")
    needed = None if job.depends_on is None else outcomes.get(job.depends_on.path)
    if job.depends_on is not None and needed is not None and not needed.is_good:
        return Outcome("not started", f"{job.depends_on.path.name}: {needed.result}")
    if state == "failed" and not retry_failed:
        status = job.directory.read_status()
        return Outcome(status.state, f"{status.reason} (before; retry_failed=true tries again)")
    return None


def _outcome(ended: EndedJob) -> Outcome | None:
    """The outcome of a job that has ended; None if another process was making the same run."""
    job, code = ended.job, ended.exit_code
    if code == IN_USE:
        return None
    if code == 0:
        if all(is_done(config, directory) for config, directory in job.runs):
            return Outcome("done", seconds=ended.seconds)
        return Outcome("failed", _ANOTHER, ended.seconds)
    last_lines = job.last_lines()
    if code == INTERRUPTED:
        return Outcome("interrupted", "goes on when the sweep is started again", ended.seconds)
    if code < 0:
        reason = f"{killed_by(-code)}; goes on when the sweep is started again"
        return Outcome("failed", f"{last_lines}\n{reason}", ended.seconds)
    status = job.directory.read_status()
    if status.state in ("failed", "diverged"):
        return Outcome(status.state, status.reason or last_lines, ended.seconds)
    # The process ended before the run began, for example because a data file is missing; or it
    # never started, as when a cluster refuses a job; or the disk is full.
    state: State = "interrupted" if code == UserError.exit_code else "failed"
    if state == "interrupted" and not last_lines:
        last_lines = f"{job.log} is empty: is the disk full?"
    with suppress(UnwritableError):
        make_folder(job.directory.path)
        job.directory.write_status(state, last_lines)
    return Outcome(state, last_lines, ended.seconds)
