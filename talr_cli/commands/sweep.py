"""`talr sweep`: the runs of a grid, each in a process of its own, then the study's report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from talr_cli import hydra_app
from talr_cli.config import check
from talr_cli.errors import UserError

log = logging.getLogger(__name__)

_FLAGS = ("-m", "--multirun", "--dry-run")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 when every run is done, 1 when one is not."""
    from talr_cli.sweep.drive import drive
    from talr_cli.sweep.grid import points
    from talr_cli.sweep.local import Local
    from talr_cli.sweep.plan import find_models, jobs_of
    from talr_cli.sweep.show import show_plan, show_summary

    dry_run = "--dry-run" in arguments
    arguments = [one for one in arguments if one not in _FLAGS]
    config_dir, overrides = _config_dir(arguments)
    if any(one.startswith("-") for one in overrides):
        hydra_app.run("sweep", check, arguments)  # --help and its like
        return 0
    own = [one for one in overrides if one.partition("=")[0] in _own_keys()]
    options = hydra_app.load("sweep", own)
    check(options)
    grid = points([one for one in overrides if one not in own], config_dir)
    sources = find_models(grid)
    jobs = jobs_of(grid, sources, config_dir)
    show_plan(jobs)
    if dry_run:
        return 0
    device = grid[0].config.device
    outcomes = drive(jobs, Local(options.workers, device), options.retry_failed)
    for config in {(one.config.runs_dir, one.config.study): one.config for one in grid}.values():
        _report(Path(config.runs_dir), config.study)
    return show_summary(jobs, outcomes)


def _own_keys() -> tuple[str, ...]:
    return tuple(hydra_app.load("sweep", []))


def _config_dir(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of --config-dir, and the other arguments."""
    rest, folder = [], None
    waiting = iter(arguments)
    for one in waiting:
        name, _, value = one.partition("=")
        if name in ("--config-dir", "-cd"):
            given = value or next(waiting, None)
            if given is None:
                raise UserError("--config-dir needs a folder")
            folder = Path(given)
        else:
            rest.append(one)
    return folder, rest


def _report(runs_dir: Path, study: str) -> None:
    """What `talr report` does, where there is anything to report."""
    from talr_cli.report.study_report import write_report
    from talr_cli.report.table import print_table
    from talr_cli.runs.study import load_runs, study_path

    runs = load_runs(runs_dir, study)
    if runs:
        print_table(list(runs.values()))
        page = write_report(runs, study, study_path(runs_dir, study) / "report")
        print(f"report: {page}")
