"""The states of a study's runs, by their files and by SLURM's queue, if there is one.

The files show what has finished or failed, the queue what waits or runs, and a run's lease what
runs without a queue.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from talr_cli.errors import UserError
from talr_cli.runs.listing import find_runs
from talr_cli.runs.manifest import MANIFEST
from talr_cli.runs.next_command import study_command
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.status import Status
from talr_cli.sweep import slurm
from talr_cli.sweep.detached import queued_jobs, submitted_jobs
from talr_cli.sweep.slurm import QueuedJob

State = Literal["done", "running", "waiting", "stopped", "failed", "diverged", "never started"]
_WAITS = {  # {SLURM's reason: for what a job waits}
    "None": "not considered yet",
    "Dependency": "for the run that it depends on",
    "BeginTime": "queued again, starts soon",
    "PartitionTimeLimit": "forever: its time limit is above the partition's",
}


@dataclass(frozen=True)
class RunState:
    """A run, its state, the number of its last job, and where it runs or why it does not."""

    path: Path
    state: State
    job: str | None
    detail: str


@dataclass(frozen=True)
class Overview:
    """The runs of a study; `notes` say what is unknown."""

    runs: list[RunState]
    notes: list[str]


def study_overview(runs_dir: Path, study: str) -> Overview:
    """The state of every run of a study that has a directory or a job.

    Raises:
        UserError: The study has no run.
    """
    folder = study_path(runs_dir, study)
    found = {one.path.resolve() for one in find_runs(runs_dir, study)}
    numbers, queue, notes = submitted_jobs(folder), {}, []
    try:
        queue = queued_jobs(folder)
    except UserError as error:
        if numbers:
            notes.append(f"the queue cannot be read: {error}")
    lost = [
        numbers[path]
        for path in numbers
        if path not in queue and not _is_settled(RunDirectory(path))
    ]
    ends = slurm.final_states(lost) if not notes else None
    if lost and ends is None and not notes:
        notes.append("this cluster keeps no accounting: the end of a job is known for minutes only")
    logs = partial(study_command, "logs", runs_dir, study)
    runs = [
        _run_state(RunDirectory(path), queue.get(path), numbers.get(path), ends or {}, logs)
        for path in sorted(found | queue.keys())
    ]
    return Overview(runs, notes)


def _run_state(
    run: RunDirectory,
    job: QueuedJob | None,
    number: str | None,
    ends: Mapping[str, str],
    logs: Callable[[str], str],
) -> RunState:
    number = number if job is None else job.number
    status, owner = run.read_status(), run.owner()
    reason = (status.reason or "").strip().splitlines()[-1:]
    if job is not None and not job.has_ended:
        if job.is_waiting:
            return RunState(run.path, "waiting", number, _WAITS.get(job.reason, job.reason))
        return RunState(run.path, "running", number, f"on {job.nodes}, {_activity(run, status)}")
    if owner is not None:
        return RunState(run.path, "running", None, f"{owner}, {_activity(run, status)}")
    if _is_settled(run):
        state: State = "done"
        if status.state in ("failed", "diverged"):
            state = "diverged" if status.state == "diverged" else "failed"
        return RunState(run.path, state, number, "".join(reason))
    end = ends.get(number or "") if job is None else job.state
    how = f"its job ended: {end}" if end else "no job or process is working on it"
    if status.state == "pending":
        has_log = any((run.path / name).exists() for name in ("train.log", "eval.log"))
        where = f": {logs(run.path.name)}" if has_log else ""
        return RunState(run.path, "never started", number, f"{how}{where}")
    return RunState(run.path, "stopped", number, f"{how}, {_progress(run, status)}")


def _is_settled(run: RunDirectory) -> bool:
    """Whether nothing is left to do for the run, by its files."""
    status = run.read_status().state
    if status == "trained":
        try:
            return run.config.exists() and not run.read_config().get("eval", True)
        except UserError:
            return False
    return status in ("evaluated", "failed", "diverged")


def _activity(run: RunDirectory, status: Status) -> str:
    """What a running run does: until its first step after an interruption, it loads.

    Until it is noted that it trains, it may also be the interrupted process, which ends.
    """
    if status.state in ("pending", "trained", "evaluated"):
        return _progress(run, status)
    found, done = run.last_checkpoint(), _last_step(run)
    loads = "loading" if status.state == "training" else "loading or ending"
    if found is None:
        return f"step {done}" if done is not None and status.state == "training" else loads
    step, checkpoint = found
    with suppress(OSError, ValueError, TypeError, KeyError):
        began = datetime.fromisoformat(status.times["training"]).timestamp()
        is_new = (checkpoint / MANIFEST).stat().st_mtime >= began
        if status.state == "training" and (is_new or (done is not None and done > step)):
            return status.state if done is None else f"step {done}"
    return f"{loads}, resumes at step {step}"


def _progress(run: RunDirectory, status: Status) -> str:
    if status.state == "trained":
        return "scoring"
    done = _last_step(run)
    if done is not None:
        return f"step {done}"
    return "starting" if status.state == "pending" else status.state


def _last_step(run: RunDirectory) -> int | None:
    rows = run.read_metrics() if run.metrics.exists() else []
    return rows[-1]["step"] if rows else None
