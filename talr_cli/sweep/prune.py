"""Deletes the weights of finished runs according to `keep`; scores, curves and samples stay."""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

from talr_cli.errors import InUseError, UserError
from talr_cli.report.pareto import pareto_front
from talr_cli.run.config import TrainConfig
from talr_cli.runs.leftovers import remove
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import filter_pair, load_results
from talr_cli.sweep.jobs import Job

log = logging.getLogger(__name__)


def prune(jobs: Sequence[Job], ended: Collection[Path], done: Collection[Path], keep: str) -> None:
    """Delete the models of finished jobs that `keep` does not keep.

    A model that is still to be averaged stays until then. A run that is dominated once stays
    dominated, so nothing has to wait for the end of the study.

    Args:
        ended: The directories of the jobs that have ended.
        done: The directories of those that succeeded.
        keep: `final` keeps every model; `ends` keeps those of whole trainings and their averages,
            not of points along them; `best` keeps those on the Pareto front of the study's runs
            with the same model and dataset; `none` keeps none.
    """
    if keep == "final":
        return
    needed = {
        job.depends_on.path for job in jobs if job.depends_on and job.directory.path not in ended
    }
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
                log.warning("a model could not be deleted despite keep=%s: %s", keep, error)


def _is_best(
    config: TrainConfig, directory: RunDirectory, best: Callable[..., frozenset[str]]
) -> bool:
    own = directory.read_results()
    if own is None:
        return True  # scores that cannot be read are no reason to delete a model
    pair = (config.model.name, config.dataset.name)
    return own["run"]["id"] in best(Path(config.runs_dir), config.study, *pair)


def _best(runs_dir: Path, study: str, model: str, dataset: str) -> frozenset[str]:
    """The ids of the runs on the Pareto front."""
    results = filter_pair(load_results(runs_dir, study), model, dataset)
    front = pareto_front(results)
    return frozenset(one["run"]["id"] for one in front)
