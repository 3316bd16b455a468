"""`talr stop`: the jobs of a detached sweep leave the queue; those that run end at a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import StopConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.runs.run_directory import study_path
from talr_cli.sweep import slurm
from talr_cli.sweep.detached import queue_of


def main(arguments: Sequence[str]) -> None:
    composition.run("stop", stop, arguments)


def stop(composed: Composed[StopConfig]) -> None:
    """Waiting jobs go first, so that none starts in the place of one that ends."""
    config = composed.config
    folder = study_path(Path(config.runs_dir), config.study)
    if not folder.is_dir():
        raise UserError(f"no study {folder}: `talr list` names those that are here")
    jobs = [job for job in queue_of(folder).values() if not job.is_over]
    waiting = [job.number for job in jobs if job.waits]
    running = [job.number for job in jobs if not job.waits and not job.ends]
    # A job that ends may be about to be queued again: cancelling it prevents that.
    slurm.cancel([*waiting, *(job.number for job in jobs if job.ends)])
    (slurm.cancel if config.now else slurm.ask_to_end)(running)
    # A job whose time was over before it was asked to end has been queued again meanwhile.
    now = [job for job in queue_of(folder).values() if job.number in running]
    slurm.cancel([job.number for job in now if job.waits or job.ends])
    print(f"{len(waiting)} waiting jobs are out of the queue")
    how = "ended" if config.now else "asked to end: they write a checkpoint first"
    print(f"{len(running)} running jobs are {how}")
    if jobs:
        print(f"see talr status study={config.study}; the same `talr sweep` again goes on")
