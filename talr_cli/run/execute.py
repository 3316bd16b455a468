"""Executes a run up to its results: makes the weights, saves, scores and records them.

Knows the order of these steps and the state of the run directory after each; other modules do them.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from talr_cli import progress, ranks
from talr_cli.errors import (
    DivergedError,
    UnwritableError,
    UserError,
    attach_run,
    reason_of,
)
from talr_cli.fields import plain
from talr_cli.models.sources import directory_source
from talr_cli.run import record
from talr_cli.run.config import TrainConfig
from talr_cli.run.during import refuse_to_make
from talr_cli.run.fit import check_fits
from talr_cli.run.make import MakeModel
from talr_cli.run.prepare import Run
from talr_cli.run.score import score
from talr_cli.run.track import NO_EXTRAS, beside_scores, start_tracker
from talr_cli.run.variants import is_merged
from talr_cli.runs.next_command import score_command
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.pairs import Results
from talr_cli.tracking.base import Ending, Tracker

if TYPE_CHECKING:
    from talr_cli.evaluation.general.tasks import Tasks

log = logging.getLogger(__name__)


def run_to_end(run: Run, make_model: MakeModel, points: Sequence[Run] = ()) -> RunDirectory:
    """Do what is left to do of a run; returns its directory.

    Args:
        make_model: Makes and saves the weights, if they do not exist yet.
        points: Runs whose weights are points of this training, and which are scored and tracked
            with it. If that fails, there is a warning, and the run of the point is scored when it
            is executed itself.

    Raises:
        UserError: Data or memory is missing, the run diverged, or it has scores of more items.
    """
    config, directory = run.config, run.directory
    # Check the suite's data and the memory before anything is written.
    done = is_done(config, directory)
    tasks = None if done else _load_tasks(config)
    if not done and not is_merged(config) and not _is_trained(directory):
        check_fits(run)
    with directory.lock(), progress.in_folder(directory.path):
        if is_done(config, directory):
            log.info("found this run done: %s", directory.path)
            return directory
        if config.eval:
            results = directory.read_results()
            if record.covers_more(results, config):
                raise UserError(
                    f"{directory.path} has scores of more items, which stay: leave out limit; for "
                    f"a quick look type `{score_command(directory.path)} limit=N`"
                )
            _check_domain_stays(run, results)
            record.warn_of_replaced(config, directory, results)
        tasks = tasks or _load_tasks(config)  # if the run was done before, but is not any more
        directory.prepare(plain(config), run.overrides, run.identity)
        try:
            _make_and_evaluate(run, make_model, tasks, points)
        except KeyboardInterrupt:
            directory.write_status("interrupted", "stopped by the user")
            raise
        except Exception as error:
            if isinstance(error, DivergedError):
                directory.write_status("diverged", str(error))
                raise UserError(f"{directory.path} diverged: {error}; try a smaller lr") from error
            record_failure(directory, error)
            raise
    return directory


def record_failure(directory: RunDirectory, error: Exception) -> None:
    """Record what has ended a run."""
    attach_run(error, directory.path)
    if _is_interruption(error):
        with suppress(UnwritableError):
            directory.write_status("interrupted", reason_of(error))
    else:
        directory.write_status("failed", "".join(traceback.format_exception(error)))


def _is_interruption(error: BaseException) -> bool:
    """Whether the user has stopped the run, or only disk space or another rank was missing."""
    stopped = isinstance(error, KeyboardInterrupt | UnwritableError)
    return stopped or ranks.has_lost_another(error)


def _check_domain_stays(run: Run, results: Results | None) -> None:
    """Raise UserError if the run has a domain score and would not be scored on the domain again."""
    can_score = run.splits.scorer is not None and record.domain_rows(run.config.domain, run.splits)
    if results is not None and results["domain"] is not None and not can_score:
        raise UserError(
            f"{run.directory.path} has a domain score, and there are no test rows or no scorer "
            f"now: give them as before, or delete {run.directory.results} to go on without"
        )


def is_done(config: TrainConfig, directory: RunDirectory) -> bool:
    """Whether the run's results exist, scored as by this config."""
    state = directory.read_status().state
    if not config.eval:
        return state in ("trained", "evaluated") and directory.model.exists()
    return state == "evaluated" and record.is_scored(config, directory.read_results())


def lacks_weights(config: TrainConfig, directory: RunDirectory) -> bool:
    """Whether a run is not done and its trained weights are missing."""
    if is_done(config, directory):
        return False
    return not _is_trained(directory)


def _is_trained(directory: RunDirectory) -> bool:
    """Whether its weights exist, and training.json, which is written after them."""
    return directory.model.exists() and directory.read_training() is not None


def _load_tasks(config: TrainConfig) -> Tasks | None:
    """The suite's tasks, loaded before the training to find out what they lack."""
    if not config.eval:
        return None
    from talr_cli.evaluation.general.tasks import load_tasks

    return load_tasks(config.suite)


def _make_and_evaluate(
    run: Run, make_model: MakeModel, tasks: Tasks | None, points: Sequence[Run]
) -> None:
    config, directory = run.config, run.directory
    log.info("run: %s", directory.path)
    log.info("model: %s", run.source.origin)
    step, _ = directory.last_checkpoint() or (0, None)
    is_trained = _is_trained(directory)
    if not is_trained:
        directory.drop_metrics_after(step)
    tracker = start_tracker(config, directory, run.identity)
    results, extras = None, NO_EXTRAS
    try:
        if is_trained:
            log.info("training: done before, evaluating")
        else:
            directory.write_status("training")
            directory.training.unlink(missing_ok=True)  # of weights that are not there any more
            make_model(run, tracker)
        directory.write_status("trained")
        for point in points:
            _score_point(point, tracker)
        if tasks is not None:
            results = score(
                config,
                record.ModelInfo(run.identity, config.method, config.lr, config.seed),
                directory,
                source=directory_source(directory.model),
                base=run.source,
                renderer=run.renderer,
                splits=run.splits,
                suite=config.suite,
                tasks=tasks,
                device=run.device,
            )
            if points:
                tracker.log_point(results)
            if tracker.is_on:  # all runs of the study are read for this
                extras = beside_scores(config, directory, results)
    except BaseException as error:
        tracker.finish(ending=Ending.STOPPED if _is_interruption(error) else Ending.FAILED)
        raise
    tracker.finish(results, *extras)


def _score_point(point: Run, tracker: Tracker) -> None:
    try:
        directory = run_to_end(point, refuse_to_make)
    except Exception as error:  # the training that reached the point must not fail
        log.warning("%s is not scored yet: %s", point.directory.path, error)
        return
    results = directory.read_results()
    if results is not None:
        tracker.log_point(results)
