"""Starts the tracker of a run or of a checkpoint's scores, with the names that it has on disk."""

from __future__ import annotations

from talr_cli.fields import plain
from talr_cli.printable import rate_text
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.paired import compare_part
from talr_cli.statistics.pairs import PARTS, Results, is_base
from talr_cli.tracking.base import RunInfo, Tracker
from talr_cli.tracking.start import start_tracking


def score_changes(base: Results | None, results: Results) -> dict[str, float]:
    """Paired differences of the scores from the base's, with their errors, for a tracker."""
    if base is None or is_base(results):
        return {}
    found = {}
    tasks = [f"general/{task}" for task in (results["general"] or {}).get("tasks", {})]
    for part in (*PARTS, *tasks):
        change = compare_part(base, results, part)
        if change is not None:
            found[f"change/{part}"] = change.difference
            if change.stderr is not None:
                found[f"change/{part}_stderr"] = change.stderr
    return found


def start_tracker(
    config: TrainConfig | EvalConfig, directory: RunDirectory, identity: str
) -> Tracker:
    """Start or resume the tracker for `directory`.

    If a trained run is scored again, its run in the tracker keeps the tags of the training.

    Raises:
        UserError: The config in `directory` cannot be read.
    """
    made = directory.read_config()
    is_trained = "trainer" in made
    tags = [config.model.name, config.dataset.name, f"suite {config.suite.name}"]
    if is_trained:
        tags += [made["method"], f"lr {rate_text(made['lr'])}", f"seed {made['seed']}"]
    return start_tracking(
        RunInfo(
            config.logger,
            run_id=identity[:8],
            name=directory.path.name,
            group=config.study,
            job_type="train" if is_trained else "eval",
            tags=tags,
            config={**made, **plain(config)},
            directory=directory.path,
            history=directory.read_metrics(),
        )
    )
