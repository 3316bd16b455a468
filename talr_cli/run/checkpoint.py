"""The scores of any checkpoint: a run's, an adapter's, the hub's, or of the base model itself."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli import progress, ranks
from talr_cli.data.base import load_test
from talr_cli.data.rendering import Renderer, load_renderer
from talr_cli.errors import UserError, of_run
from talr_cli.evaluation.self_score import check_prompts
from talr_cli.fields import plain
from talr_cli.models.adapter import whole
from talr_cli.models.checkpoints import checkpoint, run_of
from talr_cli.models.checks import check_loads, check_weights, same_tokens
from talr_cli.models.loading import choose_device, load_model
from talr_cli.models.sources import ModelSource, resolve
from talr_cli.run import record
from talr_cli.run.config import EvalConfig
from talr_cli.run.identity import identity
from talr_cli.run.record import Made
from talr_cli.run.track import track
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.samples import read_samples
from talr_cli.runs.study import SCORES
from talr_cli.tracking.base import check_installed

log = logging.getLogger(__name__)


def score_checkpoint(
    config: EvalConfig, overrides: Sequence[str], run: RunDirectory | None, made: Made | None
) -> RunDirectory:
    """Score `config.ckpt`; the directory with the scores.

    Args:
        overrides: What was typed, --config-dir included.
        run: The run whose model is scored on its own data: the scores go into its directory.
        made: What that model is; None: the checkpoint is told by its path alone.
    """
    check_installed(config.logger)
    splits = load_test(config.dataset)
    tests = record.domain_rows(config.domain, splits)  # refuses what could not be scored
    device = choose_device(config.device)
    base = resolve(config.model)
    source = (
        base if config.ckpt is None else checkpoint(config.ckpt, run_of(config.ckpt), config.model)
    )
    settings = check_loads(source, config.model, to_train=False)
    check_weights(source, settings, config.model)
    name = checkpoint_name(config.ckpt)
    if config.apart:
        run, made = None, None
    directory = own_directory(config, source, name) if run is None else run
    if record.would_replace_fuller(config, directory):
        log.info("the scores in %s are of more items and stay as they are", directory.path)
        run, made, name = None, None, f"{name}-limit{config.suite.limit or config.domain.limit}"
        directory = own_directory(config, source, name)
    if made is None:
        made = Made(identity(config, source.fingerprint), name)
    if record.is_scored(config, directory):
        log.info("found these scores: %s", directory.results)
        return directory
    before = ((directory.read_results() or {}).get("general") or {}).get("suite")
    if run is not None and before not in (None, config.suite.name):
        log.warning(
            "the scores by suite=%s in %s are replaced by those by suite=%s: apart=true keeps both",
            *(before, directory.path, config.suite.name),
        )
    from talr_cli.evaluation.general.tasks import load_tasks

    # Before anything is written: what the suite and the tokenizer lack.
    tasks, renderer = load_tasks(config.suite), load_renderer(source, config.model)
    check_prompts(settings, renderer, tests)
    suite = config.suite
    if suite.drift and config.ckpt is not None:
        suite = replace(suite, drift=_has_base(config, base, source, settings, renderer))
    with directory.lock(), progress.in_folder(directory.path):
        if record.is_scored(config, directory):
            log.info("found these scores: %s", directory.results)
            return directory
        if run is None:
            directory.prepare(plain(config), overrides, made.identity)
        try:
            from talr_cli.evaluation.evaluate import evaluate

            log.info("checkpoint: %s", source.origin)
            scores = evaluate(
                load_model(source, config.model, "auto", device),
                renderer,
                source=source,
                base=base,
                model_config=config.model,
                suite=suite,
                tasks=tasks,
                domain=config.domain,
                rows=tests,
                scorer=splits.scorer,
                samples=directory.samples,
                scores=study_path(Path(config.runs_dir), config.study) / SCORES,
            )
        except Exception as error:
            if run is None:
                directory.write_status("failed", traceback.format_exc())
            of_run(error, directory.path)
            raise
        results = record.results(config, made, base, directory, scores, source.directory)
        directory.write_results(results)
        directory.write_status("evaluated")
        answers = read_samples(directory.samples, "domain")
        track(config, directory, made.identity).finish(results, samples=answers)
    return directory


def _has_base(
    config: EvalConfig,
    base: ModelSource,
    source: ModelSource,
    settings: dict[str, Any],
    renderer: Renderer,
) -> bool:
    """Whether the model of model.path is one that the checkpoint can be compared with."""
    model = config.model
    ours, theirs = whole(source, model), whole(base, model)
    if not same_tokens(settings, renderer.tokenizer, theirs):
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
    """What the other ranks do: answer with the first one."""
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_ready

    follower = Follower(partial(load_ready, device=choose_device(config.device)))
    for order in ranks.orders():
        follower.answer(order)


def own_directory(config: EvalConfig, source: ModelSource, name: str | None = None) -> RunDirectory:
    """Where the scores of a checkpoint go that are not in its run's directory."""
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


def made_of(run: RunDirectory, method: str, lr: float | None, seed: int | None) -> Made:
    """What a run's model is, by its config."""
    run_id = run.read_identity()
    if run_id is None:
        raise UserError(f"{run.path} has no identity")
    return Made(run_id, method, lr, seed)


def checkpoint_name(ckpt: str | None) -> str:
    """What stands in the place of a method for a model whose scores are not a run's own."""
    if ckpt is None:
        return "base"
    run = run_of(ckpt)
    return Path(ckpt).name if run is None else run.path.resolve().name
