"""`talr search`: search a space for the best values; each trial is a run of the study."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from talr_cli import progress
from talr_cli.config import composition
from talr_cli.config.commands import SearchConfig
from talr_cli.errors import UserError, install_command
from talr_cli.interruption import stop_requests
from talr_cli.printable import printable
from talr_cli.runs.next_command import study_command
from talr_cli.sweep.local import Local
from talr_cli.sweep.space import parse_space

if TYPE_CHECKING:
    from optuna import Study


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if a trial stays within the bound on the general loss, else 1.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    typed = composition.split_grid_arguments("search", SearchConfig, arguments)
    if typed is None:
        return 0
    options, config_dir = typed.options, typed.config_dir
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"talr search needs Optuna: {install_command('optuna')}")
    if options.quiet:
        progress.be_quiet()
    with progress.work("planning"):
        space, fixed = parse_space(typed.of_runs, config_dir)
        from talr_cli.sweep.search import Search

        search = Search(space, fixed, config_dir, options, lambda device: Local(1, device))
    promise = "stopping: the run finishes its step; the next search resumes the trial"
    with stop_requests(promise) as stop, progress.work("talr search"):
        journal = search.run(stop)
    return _show(journal.study, journal.folder.parent, options)


def _show(study: Study, folder: Path, options: SearchConfig) -> int:
    from optuna.trial import TrialState

    from talr_cli.sweep.journal import BOUND, OVERRIDES, RUN

    trials = study.get_trials(deepcopy=False)
    counts = {
        name: sum(one.state == state for one in trials)
        for name, state in (
            ("done", TrialState.COMPLETE),
            ("ended early", TrialState.PRUNED),
            ("failed", TrialState.FAIL),
            ("made by other processes", TrialState.RUNNING),
        )
    }
    print("search: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count))
    try:
        best = study.best_trial
    except ValueError:
        best = None
    if best is None or best.constraints.get(BOUND, 1.0) > 0:
        print(f"best: no trial loses at most {options.max_general_loss:g} of the general score")
        return 1
    values = best.user_attrs[OVERRIDES]
    print(printable(f"best: trial {best.number + 1}, domain {best.value:.3f}: {values}"))
    print(printable(f"run directory: {best.user_attrs[RUN]}"))
    print(f"next: {study_command('recommend', folder.parent, folder.name)}")
    return 0
