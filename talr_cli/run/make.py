"""Makes and saves the weights of a run, by training or by averaging a trained run with its base.

Knows the content of model/ and training.json; does not know how a run is scored.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli import progress, ranks
from talr_cli.data.encoding import digest
from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.interruption import Stop, stop_requests
from talr_cli.methods.averaging import interpolate
from talr_cli.methods.checks import share_of_weight
from talr_cli.models import device_memory, loading, saving, sources
from talr_cli.models.adapter import is_tied, merge_adapter, untie
from talr_cli.models.frozen import load_frozen
from talr_cli.models.weight_files import files_of_tensors
from talr_cli.run import out_of_memory
from talr_cli.run.config import TrainConfig
from talr_cli.run.during import score_in_own_process
from talr_cli.run.fit import plan_batches
from talr_cli.run.identity import data_identity, setting_identity
from talr_cli.run.own_rows import with_own_rows
from talr_cli.run.prepare import Run, locate_run
from talr_cli.run.record import base_id
from talr_cli.runs import manifest
from talr_cli.runs.atomic import atomic_folder, write_json
from talr_cli.runs.checkpoints import check_same_rows
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker

if TYPE_CHECKING:
    import torch

    from talr_cli.training.loop import Setting

log = logging.getLogger(__name__)

TRAIN = "train"  # the order of the first rank to the others
STOPPING = "stopping: finishing the step and writing a checkpoint"

# Makes the weights of a run and saves them in model/, with training.json.
MakeModel = Callable[[Run, Tracker], None]


def make_by_training(points: Sequence[Run] = ()) -> MakeModel:
    """A function that trains a model and saves it in the dtype of the config.

    Args:
        points: Runs whose weights are copied during the training and saved in their directories.
    """

    def make(run: Run, tracker: Tracker) -> None:
        check_same_rows(run.directory.checkpoints, digest(run.rows, run.general))
        ranks.broadcast((TRAIN, run.identity, [one.identity for one in points]))
        with stop_requests(STOPPING) as stop, warnings.catch_warnings():
            # PEFT looks for the base's vocabulary on the hub when an adapter is saved, and warns if
            # it finds none or has no network; the vocabulary was checked.
            warnings.filterwarnings("ignore", "Could not find a config file in")
            warnings.filterwarnings("ignore", "Unable to fetch remote file")
            # These are about a head tied to the embedding, which `merge_adapter` takes care of.
            warnings.filterwarnings("ignore", "Model with `tie_word_embeddings=True`")
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
            with out_of_memory.explain_out_of_memory(run):
                trained = _train(run, tracker, stop, points)
            assert trained is not None  # only the first rank owns a run
            _save(run, *trained)
        del trained
        device_memory.release_memory()  # another process may score the model

    return make


def follow_training(runs: Sequence[Run]) -> None:
    """On the other ranks: train and answer together with rank 0, without writing anything.

    Args:
        runs: All runs whose training rank 0 may order.
    """
    from talr_cli.evaluation.data_parallel import Follower
    from talr_cli.evaluation.evaluate import load_to_score

    by_id = {one.identity: one for one in runs}
    follower = Follower(partial(load_to_score, device=runs[0].device))
    for order in ranks.orders():
        if isinstance(order, tuple) and order[0] == TRAIN:
            _, run_id, points = order
            with (
                stop_requests(STOPPING) as stop,
                out_of_memory.explain_out_of_memory(by_id[run_id]),
            ):
                _train(by_id[run_id], Tracker(), stop, [by_id[one] for one in points])
        else:
            follower.answer(order)


def make_by_averaging(tuned: RunDirectory, alpha: float) -> MakeModel:
    """A function that makes (1 - alpha) * base + alpha * the model of the finished run `tuned`.

    If the merge has a method `share_of`, that gives the alpha of each tensor.
    """

    def make(run: Run, tracker: Tracker) -> None:
        from talr_cli.training.loop import weight_changes

        log.info("averaging: %g of %s", alpha, tuned.path)
        tuned.check_model()
        training = tuned.read_training()
        if training is None:
            raise UserError(f"{tuned.training} is missing: delete {tuned.model} to train it again")
        base, config = run.source.directory, run.config.model
        with tempfile.TemporaryDirectory() as exported, atomic_folder(run.directory.model) as into:
            if files_of_tensors(base).keys() != files_of_tensors(tuned.model).keys():
                # Names on disk may differ from those that transformers saves, and an adapter on the
                # embedding unties the head.
                base, model = Path(exported), run.load_base()
                saved = loading.load_without_weights(sources.directory_source(tuned.model), config)
                (model if is_tied(saved) else untie(model)).save_pretrained(base)
            for file in tuned.model.iterdir():
                if file.suffix != ".safetensors":
                    shutil.copyfile(file, into / file.name)
            interpolate(base, tuned.model, into, _share_function(run, alpha))
        source = sources.directory_source(run.directory.model)
        averaged = loading.load_model(source, config, "auto", "cpu")
        weights = {
            **training["weights"],
            "averaged": {"alpha": alpha, "of": tuned.path.name},
            **weight_changes(averaged, _load_fp32(run, "cpu"), averaged.dtype),
        }
        _record(run, training["training"], weights)

    return make


def _share_function(run: Run, alpha: float) -> Callable[[str], float]:
    """A function that gives the alpha of a tensor, from its name."""
    merge: Any = run.config.merge
    if not hasattr(merge, "share_of"):
        return lambda tensor: alpha
    text = loading.load_without_weights(run.source, run.config.model).config.get_text_config()
    return partial(share_of_weight, merge, layers=text.num_hidden_layers)


def setting_of(config: TrainConfig, device: str) -> Setting:
    """The settings of the training, before it is decided how batches are divided."""
    from talr_cli.training.loop import Setting

    return Setting(
        config.trainer,
        config.optimizer,
        config.schedule,
        config.lr,
        config.seed,
        config.distributed,
        device,
    )


def _train(
    run: Run, tracker: Tracker, stop: Stop, points: Sequence[Run]
) -> tuple[Any, dict[str, Any]] | None:
    """(the trained model, the `training` results); None on all ranks but the first."""
    from talr_cli.training.determinism import MAY_DIFFER, NoFixedOrderError

    run, facts = with_own_rows(run)
    try:
        return _train_once(run, facts, tracker, stop, points, run.config.trainer.deterministic)
    except NoFixedOrderError as error:
        found = str(error)
    # Not within `except`, where the error would keep the model in memory.
    log.warning(MAY_DIFFER, f"{found}; the training begins again without one")
    device_memory.release_memory()
    if ranks.is_main():
        step, _ = run.directory.last_checkpoint() or (0, None)
        run.directory.drop_metrics_after(step)
    return _train_once(run, facts, tracker, stop, points, deterministic=False)


def _train_once(
    run: Run,
    facts: Mapping[str, float],
    tracker: Tracker,
    stop: Stop,
    points: Sequence[Run],
    deterministic: bool,
) -> tuple[Any, dict[str, Any]] | None:
    """One attempt of `_train`.

    Args:
        facts: What is added to the `training` results.
    """
    from talr_cli.training.determinism import deterministic_sums
    from talr_cli.training.loop import TrainingData, make_trainer, train

    config, renderer = run.config, run.renderer
    shown = renderer.mark_targets(run.rows[0])
    log.info("one training row, trained tokens between ⟦ and ⟧:\n%s", shown)

    def load_plain() -> Any:
        adapter, model = run.method.adapter, _load_fp32(run, "cpu")
        return model if adapter is None else adapter.wrap(model, config.model.path)

    setting = setting_of(config, run.device)
    setting = replace(setting, trainer=plan_batches(run, setting.autocast_dtype is not None))
    model = _load_to_train(run, setting.autocast_dtype)
    trainer = make_trainer(
        setting,
        model,
        renderer.tokenizer,
        run.method,
        TrainingData(run.rows, run.validation, run.general, facts),
        run.directory,
        run.source,
        run.load_base,
        config.model.path,
    )
    keep_at = {point.config.at: partial(_keep_point, point, stop) for point in points}
    with deterministic_sums(deterministic, model, run.device):
        return train(trainer, run.directory, tracker, stop, load_plain, config.at, keep_at)


def _load_to_train(run: Run, half: torch.dtype | None) -> Any:
    """Load the model to train, in the dtype and on the device of the config.

    Weights are in fp32, since a bf16 weight of 0.03 would swallow an update of 1e-6. The exceptions
    are frozen weights, and an optimizer with stochastic rounding.
    """
    import torch

    config = run.config
    base_dtype = getattr(run.method.adapter, "base_dtype", "float32")
    if ranks.is_sharded(config.distributed):
        return _load_fp32(run, "cpu")  # FSDP2 needs weights of a single dtype
    if config.optimizer.bf16_weights:
        return saving.cast_weights(_load_fp32(run, "cpu"), torch.bfloat16).to(run.device)
    if base_dtype == "float32":
        return _load_fp32(run, run.device)
    return load_frozen(run.source, config.model, base_dtype, half, run.device)


def _load_fp32(run: Run, device: str) -> Any:
    import torch

    return loading.load_model(run.source, run.config.model, torch.float32, device)


def _keep_point(point: Run, stop: Stop, model: Any, training: dict[str, Any]) -> Callable[[], None]:
    """Save the weights of `point`, which a longer training has reached.

    Returns:
        What to call when the copy of the model is freed.
    """
    log.info("keeping the weights at step %d: %s", training["steps"], point.directory.path)
    with point.directory.lock():
        point.directory.prepare(plain(point.config), point.overrides, point.identity)
        _save(point, model, training)
        point.directory.write_status("trained")
    score_now = point.config.score_during and point.config.eval
    return partial(score_in_own_process, point, stop) if score_now else lambda: None


def _save(run: Run, trained: Any, training: dict[str, Any]) -> None:
    """Write model/, training.json and perhaps adapter/; `trained` must not be used afterwards."""
    import torch

    from talr_cli.models.head import causal_lm
    from talr_cli.training.loop import weight_changes

    config, directory = run.config, run.directory
    model = causal_lm(trained)
    if trained is not model:
        for one in trained.peft_config.values():
            one.revision = config.model.revision  # of the base, for those who load it with PEFT
        with atomic_folder(directory.adapter) as building:
            trained.save_pretrained(building)
        model = merge_adapter(trained)
    if config.trainer.save_dtype == "auto":
        save_dtype = loading.stored_dtype(run.source)
    else:
        save_dtype = getattr(torch, config.trainer.save_dtype)
    with progress.work("comparing the weights with the base"):
        base = _load_fp32(run, "cpu")
        changes = weight_changes(model, base, save_dtype)
        del base
    log.info(
        "weights changed: %.2f%%, as saved: %.2f%%",
        100 * changes["changed_share"],
        100 * changes["changed_share_saved"],
    )
    with progress.work("saving the model"):
        saving.cast_weights(model, save_dtype)
        saving.save_model(
            model,
            run.renderer.tokenizer,
            run.renderer.end_of_turn,
            directory.model,
            run.source.directory,
        )
    weights: dict[str, Any] = {"save_dtype": str(save_dtype).removeprefix("torch."), **changes}
    if config.at < 1:
        _, full_run = locate_run(replace(config, at=1.0), run.source)
        weights["taken"] = {"at": config.at, "of": full_run.path.name}
    rows = {"rows_hash": run.rows_hash, "rows_chosen": data_identity(config, drawn=True)}
    _record(run, {**training, **rows}, weights)
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


def _record(run: Run, training: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Write training.json, whose content goes into results.json."""
    content = {
        "training": training,
        "weights": weights,
        "setting": setting_identity(run.config, run.source.fingerprint),
        "trained_on": data_identity(run.config),
        "base": base_id(run.source),
        "model": manifest.digest(run.directory.model),
    }
    write_json(run.directory.training, content)
