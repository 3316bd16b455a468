"""Starts the tracker of a run or of a checkpoint's scores, with the names that it has on disk.

Collects what a tracker gets beside the scores.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from talr_cli.errors import kind_and_reason
from talr_cli.fields import plain
from talr_cli.printable import rate_text
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.disk import make_folder
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.samples import read_samples
from talr_cli.runs.study import load_results
from talr_cli.statistics.groups import Group, comparable
from talr_cli.statistics.paired import compare_part
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    averaged_from,
    is_base,
    training_of,
    trajectories,
)
from talr_cli.tracking.base import RunInfo, Samples, Scores, Tracker
from talr_cli.tracking.start import start_tracking

# What a tracker gets beside the scores: the picture of the trade-off, the changes from the base
# model, and the domain's answers.
Extras = tuple[Path | None, Scores, Samples]
NO_EXTRAS: Extras = (None, {}, [])

log = logging.getLogger(__name__)


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


def beside_scores(
    config: TrainConfig | EvalConfig,
    directory: RunDirectory,
    results: Results,
    anew: Tracker | None = None,
) -> Extras:
    """What a tracker gets beside the scores of a run.

    Args:
        anew: A tracker that may have begun a trained run anew, with only the curves of the
            training. It gets the scores of the points along it, and of its end.
    """
    picture, changes, answers = NO_EXTRAS
    try:
        answers = read_samples(directory.samples, "domain")
        study = load_results(Path(config.runs_dir), config.study)
        if anew is not None:
            _log_points(anew, study, directory.path.name)
        groups = _groups_with(study, results["run"]["id"])
        changes = score_changes(groups[0].base if groups else None, results)
        picture = _plot_tradeoff(config, groups)
    except Exception as error:  # the scores are written: they need not be made again
        log.warning("the tracker gets no picture: %s", kind_and_reason(error))
    return picture, changes, answers


def _log_points(tracker: Tracker, study: Sequence[Results], name: str) -> None:
    """Log the scores of the points along the training of the run of this name."""
    for points in trajectories(study):
        if training_of(points[0]) == name and averaged_from(points[0]) is None:
            for one in points:
                tracker.log_point(one)


def _groups_with(study: Sequence[Results], run_id: str) -> list[Group]:
    """The study's groups of comparable runs that include this run."""
    return [
        group
        for group in comparable(study)
        if any(one["run"]["id"] == run_id for one in group.runs)
    ]


def _plot_tradeoff(config: TrainConfig | EvalConfig, groups: Sequence[Group]) -> Path | None:
    """Plot the trade-off of a run's groups; returns the PNG file, or None if there is none."""
    from talr_cli.report.figures.looks import save
    from talr_cli.report.figures.tradeoff import draw_tradeoff

    folder = study_path(Path(config.runs_dir), config.study) / "report"
    make_folder(folder)
    for group in groups:
        if (figure := draw_tradeoff(group)) is not None:
            return save(figure, folder, f"tradeoff-{group.file_name}")[0]
    return None
