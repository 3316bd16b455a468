"""`talr train`: one run, from config to results."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
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
from talr_cli.methods.base import Objective
from talr_cli.models import ModelSource, choose_device, load_tokenizer, resolve
from talr_cli.runs.atomic import write_json
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.study import load_results

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from talr_cli.tracking import Tracker

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    hydra_app.run("train", train, arguments)


@dataclass(frozen=True)
class _Run:
    """Everything that is known before the model is loaded."""

    config: DictConfig
    objective: Objective
    splits: Splits
    rows: list[Rendered]
    renderer: Renderer
    source: ModelSource
    directory: RunDirectory
    identity: str
    device: str


def train(config: DictConfig) -> None:
    """Train one run, or go on with it, or find it done; evaluate it unless `eval=false`."""
    check(config)
    run = _prepare(config)
    directory = run.directory
    with directory.lock():
        if _is_done(config, directory):
            log.info("found this run done: %s", directory.path)
            show(directory)
            return
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        directory.prepare(resolved, HydraConfig.get().overrides.task, run.identity)
        try:
            _train_and_evaluate(run, resolved)
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


def _prepare(config: DictConfig) -> _Run:
    """All that can go wrong in the user's hands goes wrong here: nothing is written yet."""
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
    return _Run(config, objective, splits, rows, renderer, source, directory, run_id, device)


def _train_and_evaluate(run: _Run, resolved: dict[str, Any]) -> None:
    from talr_cli import evaluation, models
    from talr_cli.tracking import start_tracking

    config, directory = run.config, run.directory
    log.info("run: %s", directory.path)
    log.info("model: %s", run.source.origin)
    step, _ = directory.last_checkpoint() or (0, None)
    if not directory.model.exists():
        directory.cut_metrics(step)
    tracker = start_tracking(
        config.logger,
        run_id=run.identity[:8],
        name=directory.path.name,
        group=config.study,
        config=resolved,
        directory=directory.path,
        history=directory.read_metrics(),
    )
    results, picture = None, None
    try:
        if directory.model.exists() and directory.training.exists():
            log.info("training: done before, evaluating")
            saved = models.directory_source(directory.model)
            model = models.load_model(saved, config.model, "auto", run.device)
        else:
            directory.write_status("training")
            model = _train_and_save(run, tracker)
        directory.write_status("trained")
        if config.eval:
            from talr_cli.evaluation.evaluate import evaluate

            def load_base() -> PreTrainedModel:
                return models.load_model(run.source, config.model, "auto", run.device)

            scores = evaluate(config, model, run.renderer, run.splits, load_base, directory)
            results = evaluation.results(config, config.method, run.identity, directory, scores)
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


def _train_and_save(run: _Run, tracker: Tracker) -> PreTrainedModel:
    """Train in fp32, save in the dtype asked for, return the model as it was saved."""
    import torch

    from talr_cli import models
    from talr_cli.training.loop import changed_shares, train

    config, directory, renderer = run.config, run.directory, run.renderer
    shown = renderer.marked(run.rows[0])
    log.info("one training row, trained tokens between ⟦ and ⟧:\n%s", shown)
    validation = encode_all(run.splits.validation, renderer, config.trainer.max_length).rows
    # The optimizer updates fp32 weights: a bf16 weight of 0.03 would swallow updates of 1e-6.
    model: Any = models.load_model(run.source, config.model, torch.float32, run.device)
    training = train(
        config,
        model,
        renderer.tokenizer,
        run.objective,
        run.rows,
        validation,
        directory,
        tracker,
        run.device,
    )
    if config.trainer.save_dtype == "auto":
        save_dtype = models.stored_dtype(run.source)
    else:
        save_dtype = getattr(torch, config.trainer.save_dtype)
    base = models.load_model(run.source, config.model, torch.float32, "cpu")
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
    write_json(directory.training, {"training": training, "weights": weights})
    shutil.rmtree(directory.checkpoints, ignore_errors=True)
    return model


def _training_rows(config: DictConfig, splits: Splits, renderer: Renderer) -> list[Rendered]:
    longest = config.trainer.max_length
    encoded = encode_all(splits.train, renderer, longest)
    total, lost = len(splits.train), encoded.without_target
    if lost:
        named = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        message = (
            f"{len(lost)} of {total} training rows have no target token within "
            f"trainer.max_length={longest}: {named}"
        )
        skip = config.dataset.get("on_bad_row", "stop") == "skip"
        if not skip or len(lost) > config.dataset.get("max_bad_share", 0.0) * total:
            raise UserError(
                f"{message}; raise trainer.max_length, or leave them out with "
                f"dataset.on_bad_row=skip dataset.max_bad_share={len(lost) / total:.2f}"
            )
        log.warning("%s; left out", message)
    if encoded.cut:
        log.warning(
            "%d of %d training rows are cut to trainer.max_length=%d: the end of what they teach "
            "is lost",
            encoded.cut,
            total,
            longest,
        )
    if not encoded.rows:
        raise UserError(f"dataset={config.dataset.name} has no training row")
    shared = overlap(splits.train, splits.test)
    if shared:
        log.warning("%d of %d test prompts also occur in training", shared, len(splits.test))
    return encoded.rows


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
