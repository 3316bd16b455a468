"""`talr stop`: cancel the waiting jobs of a detached sweep; running ones end at a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import StopConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.runs.run_directory import study_path
from talr_cli.runs.to_type import study_command
from talr_cli.sweep import slurm
from talr_cli.sweep.detached import queued_jobs


def main(arguments: Sequence[str]) -> None:
    composition.run("stop", stop, arguments)


def stop(composed: Composed[StopConfig]) -> None:
    """Cancel waiting jobs first, so that none starts in the place of one that ends."""
    config = composed.config
    folder = study_path(Path(config.runs_dir), config.study)
    if not folder.is_dir():
        names = study_command("list", config.runs_dir, None)
        raise UserError(f"no study {folder}: `{names}` names those that are here")
    jobs = [job for job in queued_jobs(folder).values() if not job.has_ended]
    waiting = [job.number for job in jobs if job.is_waiting]
    running = [job.number for job in jobs if not job.is_waiting and not job.is_ending]
    refusals: list[UserError] = []

    def tell(how: Callable[[Sequence[str]], None], numbers: Sequence[str]) -> None:
        try:
            how(numbers)
        except UserError as error:  # somebody else's job does not keep the others
            refusals.append(error)

    # One that ends may be on its way back into the queue: that is what is cancelled.
    tell(slurm.cancel, [*waiting, *(job.number for job in jobs if job.is_ending)])
    tell(slurm.cancel if config.now else slurm.request_stop, running)
    # And one whose time was over before it was asked to end is back there.
    now = [job for job in queued_jobs(folder).values() if job.number in running]
    tell(slurm.cancel, [job.number for job in now if job.is_waiting or job.is_ending])
    if refusals:
        raise refusals[0]
    print(f"{len(waiting)} waiting jobs are out of the queue")
    how = "ended" if config.now else "asked to end: they write a checkpoint first"
    print(f"{len(running)} running jobs are {how}")
    if jobs:
        status = study_command("status", config.runs_dir, config.study)
        print(f"see {status}; the same `talr sweep` again goes on")
