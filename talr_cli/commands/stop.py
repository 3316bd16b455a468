"""`talr stop`: cancel the waiting jobs of a detached sweep; running ones end at a checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import StopConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.runs.next_command import study_command
from talr_cli.runs.run_directory import study_path
from talr_cli.sweep import slurm
from talr_cli.sweep.detached import queued_jobs


def main(arguments: Sequence[str]) -> None:
    composition.run("stop", stop, arguments)


def stop(composed: Composed[StopConfig]) -> None:
    """Cancel waiting jobs first, so that none starts when a running one ends."""
    config = composed.config
    folder = study_path(Path(config.runs_dir), config.study)
    if not folder.is_dir():
        list_command = study_command("list", config.runs_dir, None)
        raise UserError(f"there is no study {folder}: `{list_command}` lists the studies")
    jobs = [job for job in queued_jobs(folder).values() if not job.has_ended]
    waiting = [job.number for job in jobs if job.is_waiting]
    running = [job.number for job in jobs if not job.is_waiting and not job.is_ending]
    errors: list[UserError] = []

    def attempt(action: Callable[[Sequence[str]], None], numbers: Sequence[str]) -> None:
        try:
            action(numbers)
        except UserError as error:  # go on with the others, as one may be another user's job
            errors.append(error)

    # An ending job may be about to be queued again, so it is cancelled, too.
    attempt(slurm.cancel, [*waiting, *(job.number for job in jobs if job.is_ending)])
    attempt(slurm.cancel if config.now else slurm.request_stop, running)
    # A job whose time ran out before it was asked to stop is now queued again.
    left = [job for job in queued_jobs(folder).values() if job.number in running]
    attempt(slurm.cancel, [job.number for job in left if job.is_waiting or job.is_ending])
    if errors:
        raise errors[0]
    print(f"{len(waiting)} waiting jobs were removed from the queue")
    action = "cancelled" if config.now else "asked to stop: they write a checkpoint first"
    print(f"{len(running)} running jobs were {action}")
    if jobs:
        status = study_command("status", config.runs_dir, config.study)
        print(f"see {status}; repeat `talr sweep` to go on")
