"""Scores any checkpoint: that of a run, an adapter, one of the hub, or the base model itself.

Knows where the scores go and when they exist already; `score.py` scores.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli import progress, ranks
from talr_cli.data.base import load_test
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
from talr_cli.run.identity import identity
from talr_cli.run.record import ModelInfo
from talr_cli.run.score import score
from talr_cli.run.track import start_tracker
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.samples import read_samples
from talr_cli.statistics.pairs import Results
from talr_cli.tracking.base import check_installed

log = logging.getLogger(__name__)


def score_checkpoint(
    config: EvalConfig, overrides: Sequence[str], run: RunDirectory | None, made: ModelInfo | None
) -> RunDirectory:
    """Score `config.ckpt`; returns the directory with the scores.

    Args:
        overrides: What the user typed, --config-dir included.
        run: The run whose model is scored on its own data, so that the scores go into its
            directory; None: they go into a directory of their own.
        made: Which model it is; None: it is named by its path.

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
    directory, made = _choose_directory(config, source, run, made)
    if _has_scores(config, directory):
        return directory
    if directory is run:
        _warn_of_other_measure(config, directory)
    from talr_cli.evaluation.general.tasks import load_tasks

    # Before anything is written: what the suite and the tokenizer lack.
    tasks, renderer = load_tasks(config.suite), load_renderer(source, config.model)
    check_prompts(settings, renderer, tests, config.domain)
    suite = config.suite
    if suite.drift and config.ckpt is not None:
        suite = replace(suite, drift=_has_base(config, base, source, settings, renderer))
    scoring = partial(
        score,
        config,
        made,
        directory,
        source=source,
        base=base,
        renderer=renderer,
        splits=splits,
        suite=suite,
        tasks=tasks,
        device=device,
    )
    with directory.lock(), progress.in_folder(directory.path):
        if not _has_scores(config, directory):  # by another process, meanwhile
            log.info("checkpoint: %s", source.origin)
            is_own = directory is not run
            if is_own:
                directory.prepare(plain(config), overrides, made.identity)
            results = _score_or_record_failure(scoring, directory, is_own)
            answers = read_samples(directory.samples, "domain")
            start_tracker(config, directory, made.identity).finish(results, samples=answers)
    return directory


def _score_or_record_failure(
    scoring: Callable[[], Results], directory: RunDirectory, is_own: bool
) -> Results:
    """Score; a failure is recorded if the directory is the scores' own, not a trained run's."""
    try:
        return scoring()
    except Exception as error:
        if is_own:
            directory.write_status("failed", traceback.format_exc())
        attach_run(error, directory.path)
        raise


def _choose_directory(
    config: EvalConfig, source: ModelSource, run: RunDirectory | None, made: ModelInfo | None
) -> tuple[RunDirectory, ModelInfo]:
    """(the directory of the scores, which model they are of)."""
    name = checkpoint_name(config.ckpt)
    if config.apart:
        run, made = None, None
    directory = own_directory(config, source, name) if run is None else run
    if record.would_replace_fuller(config, directory):
        log.info("the scores in %s are of more items and stay as they are", directory.path)
        made, name = None, f"{name}-limit{config.suite.limit or config.domain.limit}"
        directory = own_directory(config, source, name)
    return directory, made or ModelInfo(identity(config, source.fingerprint), name)


def _has_scores(config: EvalConfig, directory: RunDirectory) -> bool:
    """Whether the wanted scores exist already, which is then logged."""
    found = record.is_scored(config, directory)
    if found:
        log.info("found these scores: %s", directory.results)
    return found


def _warn_of_other_measure(config: EvalConfig, directory: RunDirectory) -> None:
    results = directory.read_results() or {}
    for part, key, value, now in (
        ("general", "suite", "suite", config.suite.name),
        ("domain", "answer_by", "domain.answer_by", config.domain.answer_by),
    ):
        before = (results.get(part) or {}).get(key)
        if before not in (None, now):
            log.warning(
                "the scores by %s=%s in %s are replaced by those by %s=%s: apart=true keeps both",
                *(value, before, directory.path, value, now),
            )


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
            "no drift is measured: model.path=%s has other tokens than %s; name the model that "
            "this one was trained from with model.path",
            *(model.path, config.ckpt),
        )
        return False
    if ours is not source and ours.fingerprint != theirs.fingerprint:
        log.warning(
            "the adapter is one of %s, and drift is measured from model.path=%s",
            *(ours.origin, model.path),
        )
    return True


def follow_scoring(config: EvalConfig) -> None:
    """On the other ranks: answer their share of what rank 0 orders."""
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_to_score

    follower = Follower(partial(load_to_score, device=choose_device(config.device)))
    for order in ranks.orders():
        follower.answer(order)


def own_directory(config: EvalConfig, source: ModelSource, name: str | None = None) -> RunDirectory:
    """The directory for scores that do not go into the directory of a run."""
    return RunDirectory.for_run(
        Path(config.runs_dir),
        study=config.study,
        model=config.model.name,
        dataset=config.dataset.name,
        method=(name or checkpoint_name(config.ckpt))
        + (f"-{config.suite.name}" if config.apart else ""),
        lr=None,
        seed=None,
        identity=identity(config, source.fingerprint),
    )


def describe_run(run: RunDirectory, method: str, lr: float | None, seed: int | None) -> ModelInfo:
    """Which model a run's is, by its config."""
    run_id = run.read_identity()
    assert run_id is not None  # its config has been read
    return ModelInfo(run_id, method, lr, seed)


def checkpoint_name(ckpt: str | None) -> str:
    """The name in tables of a model that is scored outside of its run: `base`, or by its path."""
    if ckpt is None:
        return "base"
    run = find_run(ckpt)
    return Path(ckpt).name if run is None else run.path.resolve().name
