"""Scores any checkpoint: that of a run, an adapter, one of the hub, or the base model itself.

Knows where the scores go and when they exist already; `score.py` scores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli import progress, ranks
from talr_cli.data.loading import load_test
from talr_cli.data.rendering import Renderer, load_renderer
from talr_cli.errors import attach_run
from talr_cli.evaluation.self_score import check_prompts
from talr_cli.fields import plain
from talr_cli.models.adapter import full_model_source
from talr_cli.models.checkpoints import find_run, resolve_checkpoint
from talr_cli.models.checks import check_loads, check_weights, share_vocabulary
from talr_cli.models.loading import choose_device
from talr_cli.models.sources import ModelSource, resolve_model
from talr_cli.run import record
from talr_cli.run.config import EvalConfig
from talr_cli.run.execute import record_failure
from talr_cli.run.identity import identity
from talr_cli.run.record import ModelInfo
from talr_cli.run.score import score
from talr_cli.run.track import beside_scores, start_tracker
from talr_cli.runs.listing import study_location
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import check_installed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnRun:
    """A run whose model is scored as the run itself was.

    Attributes:
        info: Which model it is.
        runs_dir: The folder of its study.
        model: The name of its base model in the run's results.
    """

    directory: RunDirectory
    info: ModelInfo
    runs_dir: Path
    study: str
    model: str


def score_checkpoint(
    config: EvalConfig, overrides: Sequence[str], run: OwnRun | None = None
) -> RunDirectory:
    """Score `config.ckpt`; returns the directory with the scores.

    Args:
        overrides: What the user typed, --config-dir included.
        run: The run whose model is scored on its own data, so that the scores go into its
            directory; None: they go into a directory of their own, and the model is named by its
            path.

    Raises:
        UserError: Something is missing or does not fit; nothing is written then.
    """
    check_installed(config.logger)
    splits = load_test(config.dataset)
    tests = record.domain_rows(config.domain, splits)  # refuses what could not be scored
    device = choose_device(config.device)
    base = resolve_model(config.model)
    source = (
        base
        if config.ckpt is None
        else resolve_checkpoint(config.ckpt, find_run(config.ckpt), config.model)
    )
    settings = check_loads(source, config.model, to_train=False)
    check_weights(source, settings, config.model)
    fingerprint = source.fingerprint
    if run is not None and not record.is_based_on(base, run.directory):
        log.warning(
            "%s was not trained from model.path=%s, so the scores go to a folder of their own",
            *(run.directory.path, config.model.path),
        )
        fingerprint, run = f"{fingerprint} {base.fingerprint}", None
    if run is not None:
        model = replace(config.model, name=run.model)
        config = replace(config, runs_dir=str(run.runs_dir), study=run.study, model=model)
    directory, info = _choose_directory(config, identity(config, fingerprint), run)
    is_own = run is None or directory is not run.directory
    if _has_scores(config, directory, base):
        return directory
    if not is_own:
        record.warn_of_replaced(config, directory, directory.read_results())
    elif not record.is_based_on(base, directory):
        log.warning("the scores in %s, of another base model, are replaced", directory.path)
    from talr_cli.evaluation.general.tasks import load_tasks

    # Find out what the suite or the tokenizer lacks before anything is written.
    tasks, renderer = load_tasks(config.suite), load_renderer(source, config.model)
    check_prompts(settings, renderer, tests, config.domain)
    suite = config.suite
    if suite.drift and config.ckpt is not None:
        suite = replace(suite, drift=_has_base(config, base, source, settings, renderer))
    with directory.lock(), progress.in_folder(directory.path):
        if _has_scores(config, directory, base):  # by another process, meanwhile
            return directory
        log.info("checkpoint: %s", source.origin)
        if is_own:
            directory.prepare(plain(config), overrides, info.identity)
        try:
            results = score(
                config,
                info,
                directory,
                source=source,
                base=base,
                renderer=renderer,
                splits=splits,
                suite=suite,
                tasks=tasks,
                device=device,
            )
        except Exception as error:
            if is_own:
                record_failure(directory, error)
            else:  # the training of the run has not failed
                attach_run(error, directory.path)
            raise
        tracker = start_tracker(config, directory, info.identity)
        if tracker.is_on:
            tracker.finish(results, *beside_scores(config, directory, results, anew=tracker))
    return directory


def _choose_directory(
    config: EvalConfig, own_id: str, run: OwnRun | None
) -> tuple[RunDirectory, ModelInfo]:
    """(the directory of the scores, which model they are of)."""
    name = checkpoint_name(config.ckpt)
    if run is None or config.apart:
        directory, info = own_directory(config, own_id, name), ModelInfo(own_id, name)
    else:
        directory, info = run.directory, run.info
    if record.covers_more(directory.read_results(), config):
        log.info("the scores in %s are of more items and stay as they are", directory.path)
        name = f"{name}-limit{config.suite.limit or config.domain.limit}"
        directory, info = own_directory(config, own_id, name), ModelInfo(own_id, name)
    return directory, info


def _has_scores(config: EvalConfig, directory: RunDirectory, base: ModelSource) -> bool:
    """Whether the scores exist already, which is then logged."""
    found = record.is_scored(config, directory.read_results())
    found = found and record.is_based_on(base, directory)
    if found:
        log.info("found these scores: %s", directory.results)
    return found


def _has_base(
    config: EvalConfig,
    base: ModelSource,
    source: ModelSource,
    settings: dict[str, Any],
    renderer: Renderer,
) -> bool:
    """Whether drift from the model of model.path can be measured; warns if not."""
    model = config.model
    ours, theirs = full_model_source(source, model), full_model_source(base, model)
    if not share_vocabulary(settings, renderer.tokenizer, theirs):
        log.warning(
            "drift is not measured: model.path=%s has other tokens than %s; name the model that "
            "this one was trained from with model.path",
            *(model.path, config.ckpt),
        )
        return False
    if ours is not source and ours.fingerprint != theirs.fingerprint:
        log.warning(
            "the adapter belongs to %s, but drift and changes are measured from model.path=%s: "
            "name its own base with model.path",
            *(ours.origin, model.path),
        )
    return True


def follow_scoring(config: EvalConfig) -> None:
    """On the other ranks: generate their share of the answers that rank 0 orders."""
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_to_score

    follower = Follower(partial(load_to_score, device=choose_device(config.device)))
    for order in ranks.orders():
        follower.answer(order)


def own_directory(config: EvalConfig, own_id: str, name: str) -> RunDirectory:
    """The directory for scores that do not go into the directory of a run."""
    return RunDirectory.for_run(
        Path(config.runs_dir),
        study=config.study,
        model=config.model.name,
        dataset=config.dataset.name,
        method=name + (f"-{config.suite.name}" if config.apart else ""),
        lr=None,
        seed=None,
        identity=own_id,
    )


def own_run(run: RunDirectory, stored: Mapping[str, Any], runs_dir: str) -> OwnRun:
    """The `OwnRun` of a run: its model by the config, its study by the location of the directory.

    Args:
        runs_dir: The folder of the study, if the directory is not in one.
    """
    run_id = run.read_identity()
    assert run_id is not None  # its config has been read
    info = ModelInfo(run_id, *(stored[key] for key in ("method", "lr", "seed")))
    folder, study = study_location(run) or (Path(runs_dir), stored["study"])
    return OwnRun(run, info, folder, study, stored["model"]["name"])


def checkpoint_name(ckpt: str | None) -> str:
    """The name in tables of a model without a run of its own: `base`, or from its path."""
    if ckpt is None:
        return "base"
    run = find_run(ckpt)
    return Path(ckpt).name if run is None else run.path.resolve().name
