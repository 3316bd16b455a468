"""`talr eval`: the scores of any checkpoint. Without `ckpt`, of the base model itself."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talr_cli import ranks
from talr_cli.config import composition
from talr_cli.config.commands import check, identity
from talr_cli.config.stored import checkpoint, run_of, with_config_of
from talr_cli.data.rendering import load_renderer
from talr_cli.errors import UserError
from talr_cli.models.loading import choose_device, load_model
from talr_cli.models.sources import ModelSource, resolve
from talr_cli.report.show import show
from talr_cli.run import record
from talr_cli.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from talr_cli.evaluation.general.tasks import Tasks

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    composition.run("eval", evaluate_checkpoint, arguments)


def evaluate_checkpoint(config: DictConfig) -> None:
    """Score `config.ckpt` and write the scores to its run directory or to one of its own."""
    check(config)
    missing = ranks.missing_ranks(config)
    if missing:
        ranks.start("eval", composition.command_line(), missing)
        return
    ranks.connect(config.device)
    with ranks.ended_by_main():
        if ranks.is_main():
            _evaluate(config)
        else:
            _follow(config)
    ranks.leave()


def _follow(config: DictConfig) -> None:
    """What the other ranks do: answer with the first one."""
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_ready

    follower = Follower(partial(load_ready, device=choose_device(config.device)))
    for order in ranks.orders():
        follower.answer(order)


def _evaluate(config: DictConfig) -> None:
    run = run_of(config.ckpt)
    if run is not None:
        config, is_own_data = with_config_of(run, config)
        check(config)
    splits = instantiate(config.dataset).load()
    record.domain_rows(config, splits)  # refuses what could not be scored
    device = choose_device(config.device)
    base = resolve(config.model)
    source = base if config.ckpt is None else checkpoint(config, run)
    if run is not None and not is_own_data:
        run = None  # its own scores stay as they are
    directory, run_id = _directory(config, run, source)
    from talr_cli.evaluation.general.tasks import load_tasks

    with directory.lock():
        if record.is_scored(config, directory):
            log.info("found these scores: %s", directory.results)
            show(directory)
            return
        tasks = load_tasks(config.suite)
        if run is None:
            resolved: Any = OmegaConf.to_container(config, resolve=True)
            directory.prepare(resolved, HydraConfig.get().overrides.task, run_id)
        try:
            _score(config, splits, base, source, directory, run_id, device, tasks)
        except Exception:
            if run is None:
                directory.write_status("failed", traceback.format_exc())
            raise
    show(directory)


def _score(
    config: DictConfig,
    splits: Any,
    base: ModelSource,
    source: ModelSource,
    directory: RunDirectory,
    run_id: str,
    device: str,
    tasks: Tasks,
) -> None:
    from talr_cli.evaluation.evaluate import evaluate
    from talr_cli.tracking import start_tracking

    log.info("checkpoint: %s", source.origin)
    renderer = load_renderer(source, config.model)
    model = load_model(source, config.model, "auto", device)
    scores = evaluate(
        config,
        model,
        renderer,
        splits,
        lambda: load_model(base, config.model, "auto", device),
        directory,
        source,
        tasks,
    )
    method = config.get("method") or _checkpoint_name(config.ckpt)
    results = record.results(
        config, method, run_id, directory, scores, base.fingerprint, source.directory
    )
    directory.write_results(results)
    directory.write_status("evaluated")
    tracker = start_tracking(
        config.logger,
        run_id=run_id[:8],
        name=directory.path.name,
        group=config.study,
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
        directory=directory.path,
        history=directory.read_metrics(),
    )
    tracker.finish(results, None)


def _checkpoint_name(ckpt: str | None) -> str:
    """What stands in the place of a method for a model whose scores are not a run's own."""
    if ckpt is None:
        return "base"
    run = run_of(ckpt)
    return Path(ckpt).name if run is None else run.path.resolve().name


def _directory(
    config: DictConfig, run: RunDirectory | None, source: ModelSource
) -> tuple[RunDirectory, str]:
    """Where the scores go: the run's own directory, or one named after the checkpoint."""
    if run is not None:
        identity_of_run = run.read_identity()
        if identity_of_run is None:
            raise UserError(f"{run.path} has no identity")
        return run, identity_of_run
    return own_directory(config, source)


def own_directory(config: DictConfig, source: ModelSource) -> tuple[RunDirectory, str]:
    """Where the scores of a checkpoint go that is no run's; and their identity."""
    run_id = identity(config, source.fingerprint)
    directory = RunDirectory.for_run(
        Path(config.runs_dir),
        study=config.study,
        model=config.model.name,
        dataset=config.dataset.name,
        method=_checkpoint_name(config.ckpt),
        lr=None,
        seed=None,
        identity=run_id,
    )
    return directory, run_id
