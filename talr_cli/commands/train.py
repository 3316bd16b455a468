"""`talr train`: one run, from config to results."""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talr_cli import hydra_app
from talr_cli.config import check, identity
from talr_cli.data.base import Splits
from talr_cli.data.rendering import Rendered, Renderer, encode_all, overlap
from talr_cli.errors import UserError
from talr_cli.models import ModelSource, choose_device, load_tokenizer, resolve
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.study import load_results

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    hydra_app.run("train", train, arguments)


def train(config: DictConfig) -> None:
    """Train one run, or go on with it, or find it done; evaluate it unless `eval=false`."""
    check(config)
    objective = instantiate(config.objective)
    splits: Splits = instantiate(config.dataset).load()
    device = choose_device(config.device)
    source = resolve(config.model)
    renderer = Renderer(load_tokenizer(source, config.model), dict(config.model.template_arguments))
    rows = _training_rows(config, splits, renderer)
    run_id = identity(config, source.fingerprint)
    directory = RunDirectory.for_run(
        Path(config.runs_dir),
        study=config.study,
        model=config.model.name,
        dataset=config.dataset.name,
        method=config.method,
        lr=config.lr,
        seed=config.seed,
        identity=run_id,
    )
    with directory.lock():
        if _is_done(config, directory):
            log.info("found this run done: %s", directory.path)
            show(directory)
            return
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        directory.prepare(resolved, HydraConfig.get().overrides.task, run_id)
        try:
            _run(config, objective, splits, rows, renderer, source, directory, run_id, device)
        except KeyboardInterrupt:
            directory.write_status("failed", "interrupted by the user")
            raise
        except Exception as error:
            from talr_cli.training.callbacks import DivergedError

            if isinstance(error, DivergedError):
                directory.write_status("diverged", str(error))
                raise UserError(f"{directory.path} diverged: {error}; try a smaller lr") from error
            directory.write_status("failed", traceback.format_exc())
            raise
    show(directory)


def _run(
    config: DictConfig,
    objective: Any,
    splits: Splits,
    rows: list[Rendered],
    renderer: Renderer,
    source: ModelSource,
    directory: RunDirectory,
    run_id: str,
    device: str,
) -> None:
    from talr_cli import evaluation, models
    from talr_cli.tracking import start_tracking

    log.info("run: %s", directory.path)
    log.info("model: %s", source.origin)
    step, _ = directory.last_checkpoint() or (0, None)
    if not directory.model.exists():
        directory.cut_metrics(step)
    tracker = start_tracking(
        config.logger,
        run_id=run_id[:8],
        name=directory.path.name,
        group=config.study,
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
        directory=directory.path,
        history=directory.read_metrics(),
    )

    def load_base() -> PreTrainedModel:
        return models.load_model(source, config.model, "auto", device)

    results, picture = None, None
    try:
        trained = directory.path / "training.json"
        if directory.model.exists() and trained.exists():
            log.info("training: done before, evaluating")
            model = models.load_model(
                models.directory_source(directory.model), config.model, "auto", device
            )
        else:
            directory.write_status("training")
            model = _train_and_save(
                config, objective, splits, rows, renderer, source, directory, tracker, device
            )
        directory.write_status("trained")
        if config.eval:
            from talr_cli.evaluation.evaluate import evaluate

            scores = evaluate(config, model, renderer, splits, load_base, directory)
            results = evaluation.results(config, config.method, run_id, directory.model, scores)
            results |= json.loads(trained.read_text())
            directory.write_results(results)
            directory.write_status("evaluated")
            picture = _picture(config)
    finally:
        tracker.finish(results, picture)


def _picture(config: DictConfig) -> Path | None:
    """The trade-off of this run's model and dataset in the study, as it stands now."""
    from talr_cli.report.tradeoff import plot_tradeoff

    runs_dir = Path(config.runs_dir)
    pair = (config.model.name, config.dataset.name)
    results = [
        one
        for one in load_results(runs_dir, config.study)
        if (one["run"]["model"], one["run"]["dataset"]) == pair
    ]
    folder = study_path(runs_dir, config.study) / "report"
    folder.mkdir(exist_ok=True)
    pictures = plot_tradeoff(results, folder)
    return next((picture for picture in pictures if picture.suffix == ".png"), None)


def _train_and_save(
    config: DictConfig,
    objective: Any,
    splits: Splits,
    rows: list[Rendered],
    renderer: Renderer,
    source: ModelSource,
    directory: RunDirectory,
    tracker: Any,
    device: str,
) -> PreTrainedModel:
    """Train in fp32, save in the dtype asked for, return the model as it was saved."""
    import torch

    from talr_cli import models
    from talr_cli.runs.atomic import write_json
    from talr_cli.training.loop import changed_shares, train

    log.info("one training row, trained tokens between ⟦ and ⟧:\n%s", renderer.marked(rows[0]))
    validation, _ = encode_all(splits.validation, renderer, config.trainer.max_length)
    # The optimizer updates fp32 weights: a bf16 weight of 0.03 would swallow updates of 1e-6.
    model: Any = models.load_model(source, config.model, torch.float32, device)
    training = train(
        config, model, renderer.tokenizer, objective, rows, validation, directory, tracker, device
    )
    if config.trainer.save_dtype == "auto":
        save_dtype = models.stored_dtype(source)
    else:
        save_dtype = getattr(torch, config.trainer.save_dtype)
    base = models.load_model(source, config.model, torch.float32, "cpu")
    changed, changed_saved = changed_shares(model, base, save_dtype)
    del base
    log.info("weights changed: %.2f%%, as saved: %.2f%%", 100 * changed, 100 * changed_saved)
    model.to(save_dtype)
    models.save_model(model, renderer.tokenizer, directory.model)
    weights = {
        "save_dtype": str(save_dtype).removeprefix("torch."),
        "changed_share": changed,
        "changed_share_saved": changed_saved,
    }
    write_json(directory.path / "training.json", {"training": training, "weights": weights})
    shutil.rmtree(directory.checkpoints, ignore_errors=True)
    return model


def _training_rows(config: DictConfig, splits: Splits, renderer: Renderer) -> list[Rendered]:
    rows, too_long = encode_all(splits.train, renderer, config.trainer.max_length)
    if too_long:
        share = len(too_long) / len(splits.train)
        named = ", ".join(too_long[:5]) + (", ..." if len(too_long) > 5 else "")
        message = (
            f"{len(too_long)} of {len(splits.train)} training rows are longer than "
            f"trainer.max_length={config.trainer.max_length}: {named}"
        )
        skip = config.dataset.get("on_bad_row", "stop") == "skip"
        if not skip or share > config.dataset.get("max_bad_share", 0.0):
            raise UserError(
                f"{message}; raise trainer.max_length, or set dataset.on_bad_row=skip and "
                f"dataset.max_bad_share (now {share:.1%} would go)"
            )
        log.warning("%s; left out", message)
    if not rows:
        raise UserError(f"dataset={config.dataset.name} has no training row")
    shared = overlap(splits.train, splits.test)
    if shared:
        log.warning("%d of %d test prompts also occur in training", shared, len(splits.test))
    return rows


def _is_done(config: DictConfig, directory: RunDirectory) -> bool:
    """Whether the run's results are there and were scored the way this config asks for."""
    state = directory.read_status().state
    if not config.eval:
        return state in ("trained", "evaluated") and directory.model.exists()
    results = directory.read_results()
    from talr_cli import evaluation

    return (
        state == "evaluated"
        and results is not None
        and results["scoring"] == evaluation.scoring_identity(config)
    )


def show(directory: RunDirectory) -> None:
    """Print where the run lies and what it scored."""
    from talr_cli.report.table import print_table

    results = directory.read_results()
    if results is not None:
        print_table([results])
    print(f"run directory: {directory.path}")
