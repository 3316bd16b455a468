"""Deletes the weights of runs that are done, as `keep` says. Scores, curves and samples stay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

from talr_cli.errors import InUseError, UserError
from talr_cli.report.pareto import pareto_front
from talr_cli.run.config import TrainConfig
from talr_cli.runs.leftovers import remove
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_pair
from talr_cli.sweep.jobs import Job

log = logging.getLogger(__name__)


def prune(jobs: Sequence[Job], ended: Collection[Path], done: Collection[Path], keep: str) -> None:
    """Delete the models of finished jobs that `keep` does not keep.

    A model that is still to be averaged stays until that has ended. A run that is beaten once stays
    beaten, so nothing has to wait for the end of the study.

    Args:
        ended: The directories of the jobs that have ended, and in `done` of those that ended well.
        keep: `final` keeps every model; `ends` those of whole trainings and their averages, not of
            points along them; `best` those on the Pareto front of the study's runs of the same
            model and dataset; `none` none.
    """
    if keep == "final":
        return
    needed = {job.needs.path for job in jobs if job.needs and job.directory.path not in ended}
    best = cache(_best)  # this is called whenever a job ends: the study is read once
    for job in jobs:
        path = job.directory.path
        if job.command != "train" or path not in done or path in needed:
            continue
        for config, directory in job.runs:
            if not directory.model.exists():
                continue
            if (keep == "ends" and config.at == 1) or (
                keep == "best" and _is_best(config, directory, best)
            ):
                continue
            try:
                with directory.lock():  # another sweep may have deleted it meanwhile
                    remove(directory.model)
                    remove(directory.adapter)
            except InUseError:
                continue
            except UserError as error:
                log.warning("a model that keep=%s does not keep stays: %s", keep, error)


def _is_best(
    config: TrainConfig, directory: RunDirectory, best: Callable[..., frozenset[str]]
) -> bool:
    own = directory.read_results()
    if own is None:
        return True  # nothing is deleted for scores that cannot be read
    pair = (config.model.name, config.dataset.name)
    return own["run"]["id"] in best(Path(config.runs_dir), config.study, *pair)


def _best(runs_dir: Path, study: str, model: str, dataset: str) -> frozenset[str]:
    """The ids of the runs on the Pareto front."""
    front = pareto_front(load_pair(runs_dir, study, model, dataset))
    return frozenset(one["run"]["id"] for one in front)
