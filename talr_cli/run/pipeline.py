"""One run, from config to results: prepare, train or merge, save, evaluate, write down.

Knows the order of things and what a run directory must hold after each; the work is done by the
modules it calls.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talr_cli import ranks
from talr_cli.config.commands import identity
from talr_cli.data.base import Splits
from talr_cli.data.duplicates import check_overlap
from talr_cli.data.rendering import Rendered, Renderer, encode_all, load_renderer
from talr_cli.errors import UserError
from talr_cli.interruption import Stop, stop_requests
from talr_cli.methods.averaging import interpolate, same_tensors
from talr_cli.methods.method import Method
from talr_cli.models.loading import choose_device
from talr_cli.models.sources import ModelSource, resolve
from talr_cli.run.record import domain_rows, is_scored
from talr_cli.runs.atomic import made_whole, write_json
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.study import load_pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from talr_cli.evaluation.general.tasks import Tasks
    from talr_cli.tracking import Tracker

log = logging.getLogger(__name__)

TRAIN = "train"  # what the first rank orders the others to do
STOPPING = "stopping: finishing the step and writing a checkpoint"


@dataclass(frozen=True)
class Run:
    """Everything that is known before the model is loaded."""

    config: DictConfig
    method: Method
    splits: Splits
    rows: list[Rendered]
    general: list[Rendered]
    renderer: Renderer
    source: ModelSource
    directory: RunDirectory
    identity: str
    device: str

    def load_base(self) -> PreTrainedModel:
        """The base model, in the dtype of its checkpoint."""
        from talr_cli.models import loading

        return loading.load_model(self.source, self.config.model, "auto", self.device)


# Makes the weights of a run, saves model/ and training.json, returns the model as it was saved.
MakeModel = Callable[[Run, "Tracker"], "PreTrainedModel"]


def prepare(config: DictConfig) -> Run:
    """All that can go wrong in the user's hands goes wrong here: nothing is written yet."""
    method = Method.of(config)
    ranks.per_rank(config, ranks.world_size())  # refuses a batch that cannot be cut up
    splits: Splits = instantiate(config.dataset).load()
    domain_rows(config, splits)  # refuses what could not be scored after training
    device = choose_device(config.device)
    source = resolve(config.model)
    renderer = load_renderer(source, config.model)
    rows = _training_rows(config, splits, renderer)
    general: list[Rendered] = []
    if method.replay is not None:
        longest = config.trainer.max_length
        general = encode_all(method.replay.examples(), renderer, longest).rows
        if not general:
            raise UserError(f"replay.path={method.replay.path} has no row with a target token")
        random.Random(config.seed).shuffle(general)  # they are taken in order, often not all
    config, run_id, directory = place(config, method, source)
    return Run(config, method, splits, rows, general, renderer, source, directory, run_id, device)


def merged(run: Run, config: DictConfig) -> Run:
    """The run of `config`, which differs from that of `run` in its merge: nothing is read again."""
    method = Method.of(config)
    config, run_id, directory = place(config, method, run.source)
    return replace(run, config=config, method=method, directory=directory, identity=run_id)


def place(
    config: DictConfig, method: Method, source: ModelSource
) -> tuple[DictConfig, str, RunDirectory]:
    """The config with the method's name in it, the run's identity, its directory."""
    config = config.copy()
    config.method = config.method or method.name
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
    return config, run_id, directory


def run_to_end(run: Run, make_model: MakeModel) -> RunDirectory:
    """Do what is left to do of a run; its directory."""
    config, directory = run.config, run.directory
    with directory.lock():
        done = is_done(config, directory)
        tasks = None if done else _tasks(config)
        if done:
            log.info("found this run done: %s", directory.path)
            return directory
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        directory.prepare(resolved, HydraConfig.get().overrides.task, run.identity)
        try:
            _make_and_evaluate(run, resolved, make_model, tasks)
        except KeyboardInterrupt:
            directory.write_status("interrupted", "stopped by the user")
            raise
        except Exception as error:
            from talr_cli.training.callbacks import DivergedError

            if isinstance(error, DivergedError):
                directory.write_status("diverged", str(error))
                raise UserError(f"{directory.path} diverged: {error}; try a smaller lr") from error
            directory.write_status("failed", traceback.format_exc())
            raise
    return directory


def _tasks(config: DictConfig) -> Tasks | None:
    """The suite's tasks, so that what they lack is known before hours of training."""
    if not config.eval:
        return None
    from talr_cli.evaluation.general.tasks import load_tasks

    return load_tasks(config.suite)


def _make_and_evaluate(
    run: Run, resolved: dict[str, Any], make_model: MakeModel, tasks: Tasks | None
) -> None:
    from talr_cli.models import loading, sources
    from talr_cli.run import record
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
        if _is_trained(directory):
            log.info("training: done before, evaluating")
            saved = sources.directory_source(directory.model)
            model = loading.load_model(saved, config.model, "auto", run.device)
        else:
            directory.write_status("training")
            model = make_model(run, tracker)
        directory.write_status("trained")
        if tasks is not None:
            from talr_cli.evaluation.evaluate import evaluate

            saved = sources.directory_source(directory.model)
            scores = evaluate(
                config, model, run.renderer, run.splits, run.load_base, directory, saved, tasks
            )
            results = record.results(config, config.method, run.identity, directory, scores)
            directory.write_results(results)
            directory.write_status("evaluated")
            picture = _picture(config)
    finally:
        tracker.finish(results, picture)


def _picture(config: DictConfig) -> Path | None:
    """The trade-off of this run's model and dataset in the study, as it stands now."""
    from talr_cli.report.figures.tradeoff import plot_tradeoff

    runs_dir = Path(config.runs_dir)
    results = load_pair(runs_dir, config.study, config.model.name, config.dataset.name)
    folder = study_path(runs_dir, config.study) / "report"
    folder.mkdir(exist_ok=True)
    pictures = plot_tradeoff(results, folder)
    return next((picture for picture in pictures if picture.suffix == ".png"), None)


def follow(run: Run) -> None:
    """What the other ranks of a run do: train and answer with the first one, and write nothing."""
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_ready
    from talr_cli.tracking import Tracker

    follower = Follower(partial(load_ready, device=run.device))
    for order in ranks.orders():
        if order == TRAIN:
            with stop_requests(STOPPING) as stop:
                _train(run, Tracker(), stop)
        else:
            follower.answer(order)


def _train(run: Run, tracker: Tracker, stop: Stop) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """The trained model, in fp32, and the `training` results; None on all ranks but the first."""
    import torch

    from talr_cli.models import loading
    from talr_cli.training.loop import TrainingData, make_trainer, train

    config, renderer = run.config, run.renderer
    validation = encode_all(run.splits.validation, renderer, config.trainer.max_length).rows

    # The optimizer updates fp32 weights: a bf16 weight of 0.03 would swallow updates of 1e-6.
    def load(device: str) -> Any:
        return loading.load_model(run.source, config.model, torch.float32, device)

    def load_plain() -> Any:
        adapter, model = run.method.adapter, load("cpu")
        return model if adapter is None else adapter.wrap(model, config.model.path)

    trainer = make_trainer(
        config,
        load("cpu" if ranks.is_sharded(config) else run.device),
        renderer.tokenizer,
        run.method,
        TrainingData(run.rows, validation, run.general),
        run.directory,
        run.source,
        run.load_base,
        run.device,
    )
    return train(trainer, run.directory, tracker, stop, load_plain)


def train_and_save(run: Run, tracker: Tracker) -> PreTrainedModel:
    """Train in fp32, save in the dtype asked for, return the model as it was saved."""
    ranks.broadcast(TRAIN)
    shown = run.renderer.marked(run.rows[0])
    log.info("one training row, trained tokens between ⟦ and ⟧:\n%s", shown)
    with stop_requests(STOPPING) as stop:
        trained = _train(run, tracker, stop)
        if trained is None:
            raise RuntimeError("only the first rank owns a run")
        _save(run, *trained)
    return trained[0]


def _save(run: Run, model: PreTrainedModel, training: dict[str, Any]) -> None:
    """Write model/ and training.json; `model` takes the dtype that it is saved in."""
    import torch

    from talr_cli.models import loading
    from talr_cli.training.loop import weight_changes

    config, directory = run.config, run.directory
    if config.trainer.save_dtype == "auto":
        save_dtype = loading.stored_dtype(run.source)
    else:
        save_dtype = getattr(torch, config.trainer.save_dtype)
    base = loading.load_model(run.source, config.model, torch.float32, "cpu")
    changes = weight_changes(model, base, save_dtype)
    del base
    log.info(
        "weights changed: %.2f%%, as saved: %.2f%%",
        100 * changes["changed_share"],
        100 * changes["changed_share_saved"],
    )
    model.to(run.device, save_dtype)  # type: ignore[arg-type]
    loading.save_model(model, run.renderer.tokenizer, directory.model)
    weights = {"save_dtype": str(save_dtype).removeprefix("torch."), **changes}
    write_json(directory.training, {"training": training, "weights": weights})
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


def average(tuned: RunDirectory, alpha: float) -> MakeModel:
    """Makes (1 - alpha) * base + alpha * the model of the finished run `tuned`."""

    def make(run: Run, tracker: Tracker) -> PreTrainedModel:
        import torch

        from talr_cli.models import loading, sources
        from talr_cli.training.loop import weight_changes

        log.info("averaging: %g of %s", alpha, tuned.path)
        base, config = run.source.directory, run.config.model
        with tempfile.TemporaryDirectory() as exported, made_whole(run.directory.model) as into:
            if not same_tensors(base, tuned.model):
                # Names on disk may differ from those that transformers saves.
                base = Path(exported)
                run.load_base().save_pretrained(base)
            for file in tuned.model.iterdir():
                if file.suffix != ".safetensors":
                    shutil.copy2(file, into)
            interpolate(base, tuned.model, into, alpha)
        saved = sources.directory_source(run.directory.model)
        model = loading.load_model(saved, config, "auto", run.device)
        plain = loading.load_model(run.source, config, torch.float32, "cpu")
        done = json.loads(tuned.training.read_text())
        weights = {
            "save_dtype": done["weights"]["save_dtype"],
            "averaged": {"alpha": alpha, "of": tuned.path.name},
            **weight_changes(model, plain, model.dtype),
        }
        write_json(run.directory.training, {"training": done["training"], "weights": weights})
        return model

    return make


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
    # Rows that are not scored may be those that are trained on.
    check_overlap(splits, config.dataset.get("max_overlap", 1.0) if config.eval else 1.0)
    return encoded.rows


def _is_trained(directory: RunDirectory) -> bool:
    return directory.model.exists() and directory.training.exists()


def is_done(config: DictConfig, directory: RunDirectory) -> bool:
    """Whether the run's results are there and were scored the way this config asks for."""
    state = directory.read_status().state
    if not config.eval:
        return state in ("trained", "evaluated") and directory.model.exists()
    return state == "evaluated" and is_scored(config, directory)
