"""`talr sweep`: run a grid, each run in its own process, then report the study."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from talr_cli import progress
from talr_cli.commands.report import show_report
from talr_cli.config import composition
from talr_cli.config.commands import SweepConfig
from talr_cli.errors import UserError
from talr_cli.interruption import stop_requests
from talr_cli.printable import printable, printable_lines
from talr_cli.runs.next_command import study_command
from talr_cli.runs.study import load_runs, study_path
from talr_cli.sweep import slurm
from talr_cli.sweep.detached import batch_script, submit
from talr_cli.sweep.drive import run_jobs
from talr_cli.sweep.grid import Point, expand_grid
from talr_cli.sweep.hydra_launcher import HydraLauncher
from talr_cli.sweep.jobs import Launcher
from talr_cli.sweep.local import Local
from talr_cli.sweep.machine import find_obstacles
from talr_cli.sweep.plan import Plan, find_models, make_plan
from talr_cli.sweep.show import show_plan, show_submissions, show_summary

log = logging.getLogger(__name__)

_FLAGS = ("-m", "--multirun", "--dry-run")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if every run is done or in SLURM's queue, else 1.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    dry_run = "--dry-run" in arguments
    arguments = [one for one in arguments if one not in _FLAGS]
    typed = composition.split_grid_arguments("sweep", SweepConfig, arguments)
    if typed is None:
        return 0
    options, config_dir = typed.options, typed.config_dir
    of_launcher = [one for one in typed.of_runs if one.lstrip("+~").startswith("hydra.launcher.")]
    _check_options(options, typed.own, of_launcher)
    if options.quiet:
        progress.be_quiet()
    with progress.work("planning"):
        grid = expand_grid([one for one in typed.of_runs if one not in of_launcher], config_dir)
        models = find_models(grid, fetch=not dry_run)
        plan = make_plan(grid, models, config_dir, options)
        if any(state != "done" for state in plan.states):
            certain, possible = find_obstacles(grid, models, options.launcher)
            plan = replace(plan, missing=[*plan.missing, *certain], notes=[*plan.notes, *possible])
    if options.detach:
        return _detach(plan, options, dry_run)
    launcher = _launcher(plan, grid, options, of_launcher, config_dir)
    if dry_run or not options.quiet:
        show_plan(plan)
    if dry_run:
        return 0
    with stop_requests("stopping: the runs finish their step; no more are started") as stop:
        outcomes = run_jobs(
            plan.jobs, launcher, options.retry_failed, options.keep, stop, options.workers
        )
        if stop.requested:
            show_summary(plan.jobs, outcomes)
    try:
        next_commands = _report(grid)
    finally:  # a report that cannot be written hides nothing
        show_summary(plan.jobs, outcomes)
    for command in next_commands:
        print(printable(f"next: {command}"))
    return 0 if all(outcome.is_good for outcome in outcomes.values()) else 1


def _launcher(
    plan: Plan,
    grid: Sequence[Point],
    options: SweepConfig,
    of_launcher: Sequence[str],
    config_dir: Path | None,
) -> Launcher:
    """The launcher of the jobs.

    Raises:
        UserError: Something is missing, so that no job could run.
    """
    launcher: Launcher
    missing = list(plan.missing)
    if options.launcher == "local":
        launcher = Local(options.workers, grid[0].config.device)
    else:
        study = study_path(Path(grid[0].config.runs_dir), grid[0].config.study)
        launcher = HydraLauncher(options.launcher, of_launcher, study, config_dir)
        if any(state != "done" for state in plan.states):
            missing += filter(None, [launcher.refusal()])
    if missing:
        raise UserError("; ".join(missing))
    return launcher


def _report(grid: Sequence[Point]) -> list[str]:
    """Report each study of the grid that has scores; returns the next command for each."""
    commands = []
    studies = dict.fromkeys((one.config.runs_dir, one.config.study) for one in grid)
    for runs_dir, name in studies:
        runs = load_runs(Path(runs_dir), name)
        if runs:
            claims = any(one.config.claims for one in grid if one.config.study == name)
            show_report(Path(runs_dir), name, runs, claims=claims or None)
            commands.append(study_command("recommend", runs_dir, name))
    return commands


def _check_options(options: SweepConfig, own: Sequence[str], of_launcher: Sequence[str]) -> None:
    """Raise UserError if there are options for another launcher than the chosen one."""
    of_slurm = [one for one in own if one.startswith("slurm.")]
    if of_launcher and options.launcher == "local":
        raise UserError(
            f"{of_launcher[0]} is for launcher=slurm, submitit or ray: launcher=local, which runs "
            "the jobs on this machine, has no such options"
        )
    if of_launcher and options.detach:
        raise UserError(
            f"{of_launcher[0]} is for a sweep that waits for its jobs: with detach=true type "
            "slurm.KEY=VALUE, `talr sweep --help` lists them"
        )
    if of_slurm and not options.detach:
        raise UserError(
            f"{of_slurm[0]} is for launcher=slurm detach=true: for a sweep that waits for its jobs "
            "type hydra.launcher.KEY=VALUE"
        )


def _detach(plan: Plan, options: SweepConfig, dry_run: bool) -> int:
    """Submit the unfinished jobs; with `dry_run` only show the script of the first one."""
    left = [job for job, state in zip(plan.jobs, plan.states, strict=True) if state != "done"]
    missing = list(plan.missing)
    if left:
        text = batch_script(left[0], options.slurm)
        reason = slurm.refusal(text, options.slurm.partition, options.slurm.minutes)
        missing += [] if reason is None else [reason]
    if missing:
        raise UserError("; ".join(missing))
    show_plan(plan)
    if dry_run:
        if left:
            print(f"\nThe first of {len(left)} batch scripts, of {left[0].directory.path.name}:\n")
            print(printable_lines(text))
        return 0
    submissions = submit(plan, options.slurm)
    show_submissions(submissions)
    return 0 if all(one.is_good for one in submissions) else 1
