"""Prepares a run: everything that can be done before a model is loaded, without writing anything.

Mistakes that the user can correct are found here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from talr_cli import ranks
from talr_cli.data.base import Splits, content_hash
from talr_cli.data.duplicates import check_overlap
from talr_cli.data.encoding import TokenRows, encode_dataset_rows, encode_training_rows
from talr_cli.data.loading import load
from talr_cli.data.rendering import Renderer, load_renderer
from talr_cli.errors import UserError, failure_of, location_in_user_code, reason_of
from talr_cli.evaluation.self_score import check_test_rows
from talr_cli.fields import target_of
from talr_cli.methods.checks import check_objective, check_schedule
from talr_cli.methods.method import Method
from talr_cli.methods.replay import Replay, SelfReplay, assign_replayed_rows
from talr_cli.models import loading
from talr_cli.models.adapter import has_adapter
from talr_cli.models.checks import (
    check_length,
    check_loads,
    check_top_k,
    check_vocabulary,
    check_weights,
)
from talr_cli.models.frozen import check_base_dtype
from talr_cli.models.loading import choose_device, choose_precision, load_without_weights
from talr_cli.models.sources import ModelSource, resolve_model
from talr_cli.run.config import TrainConfig
from talr_cli.run.identity import identity
from talr_cli.run.record import domain_rows
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import check_installed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that is ready to be trained and scored.

    Attributes:
        overrides: What the user typed for it, --config-dir included.
        splits: What is scored; also the training rows, if the base is to answer them.
        rows: The training rows.
        general: The rows for replay.
        source: The base model.
        validation: The rows for the validation loss.
        rows_hash: That of the training rows, by content.
    """

    config: TrainConfig
    overrides: Sequence[str]
    splits: Splits
    rows: TokenRows
    general: TokenRows
    renderer: Renderer
    source: ModelSource
    directory: RunDirectory
    identity: str
    device: str
    validation: TokenRows = field(default_factory=TokenRows)
    rows_hash: str = ""

    @property
    def method(self) -> Method:
        return self.config.parts

    def load_base(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """The base model; by default in the dtype of its checkpoint."""
        return loading.load_model(self.source, self.config.model, dtype or "auto", self.device)


def prepare(config: TrainConfig, overrides: Sequence[str] = ()) -> Run:
    """Read the data, find the model, render the rows, find the run's directory.

    Raises:
        UserError: Something is missing or does not fit.
    """
    trainer = config.trainer
    check_installed(config.logger)
    check_objective(config.objective)
    check_schedule(config.schedule)
    ranks.per_rank(trainer.batch_size, trainer.rows_at_once, ranks.world_size())
    splits = load(config.dataset)
    tests = domain_rows(config.domain, splits)  # refuses what could not be scored after training
    device = choose_device(config.device)
    precision, reason = choose_precision(trainer.precision, device)
    _check_training(config, device, precision)
    source = resolve_model(config.model)
    settings = check_loads(source, config.model, to_train=True)
    check_weights(source, settings, config.model)
    check_top_k(settings, config.objective.top_k)
    _check_adapter(config, source)
    renderer = load_renderer(source, config.model)
    rows = _training_rows(config, replace(splits, test=tests), renderer)
    general = _replay_rows(config, splits, renderer)
    validation = _validation_rows(config, splits, renderer)
    for some, what in ((rows, "training"), (general, "replay"), (validation, "validation")):
        check_vocabulary(settings, renderer.tokenizer, [some.ids])
        longest = max(some.lengths, default=0)
        check_length(settings, longest, f"{what} rows", "set trainer.max_length={positions}")
    if config.replay is not None and general:
        # It refuses a share that is no row.
        assign_replayed_rows(rows.target_counts, general.target_counts, config.replay.share)
    if config.eval and (splits.scorer is None or not tests):
        lacks = "scorer" if splits.scorer is None else "test rows: dataset.test=FILE gives them"
        log.warning("there will be no domain score: the dataset has no %s", lacks)
    if config.eval and splits.scorer is not None:
        check_test_rows(settings, renderer, tests, splits.scorer, config.domain)
    found = "auto: no GPU is seen" if device == "cpu" else "auto: the GPU"
    found = found if config.device == "auto" else "as asked for"
    log.info("device: %s (%s), precision: %s (%s)", device, found, precision, reason)
    run_id, directory = locate_run(config, source)
    rows_hash = content_hash(splits.train)
    if not isinstance(config.replay, SelfReplay):
        splits = replace(splits, train=[], validation=[])  # their texts are not needed any more
    return Run(
        config,
        overrides,
        splits,
        rows,
        general,
        renderer,
        source,
        directory,
        run_id,
        device,
        validation,
        rows_hash,
    )


def prepare_variant(run: Run, config: TrainConfig) -> Run:
    """The run of `config`, a variant of `run`, without reading anything again."""
    run_id, directory = locate_run(config, run.source)
    return replace(run, config=config, directory=directory, identity=run_id)


def locate_run(config: TrainConfig, source: ModelSource) -> tuple[str, RunDirectory]:
    """(the run's identity, its directory)."""
    run_id = identity(config, source.fingerprint)
    directory = RunDirectory.for_run(
        Path(config.runs_dir),
        study=config.study,
        model=config.model.name,
        dataset=config.dataset.name,
        method=config.method,
        lr=config.lr,
        seed=config.seed,
        at=config.at,
        identity=run_id,
    )
    return run_id, directory


def _check_training(config: TrainConfig, device: str, precision: str) -> None:
    """Raise UserError if optimizer, adapter or compiler do not work on this device."""
    sharded = ranks.is_sharded(config.distributed)
    config.optimizer.check(sharded, config.adapter is not None, precision)
    check_base_dtype(getattr(config.adapter, "base_dtype", "float32"), sharded)
    if config.trainer.compile or config.optimizer.compiles:
        from talr_cli.training.compiled import check_compiler, require_compiler

        if config.trainer.compile:
            check_compiler(device, sharded)
        if config.optimizer.compiles:
            name = config.optimizer.choice
            require_compiler(f"optimizer={name}", device, ", or use optimizer=adamw")


def _check_adapter(config: TrainConfig, source: ModelSource) -> None:
    """Refuse an adapter of the head or of modules that do not exist, without loading weights."""
    adapter = config.parts.adapter
    if adapter is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are shown when the training begins
            model = load_without_weights(source, config.model)
            modules = [name for name, _ in model.named_modules()]
            adapted = adapter.wrap(model, config.model.path)
    except NotImplementedError:
        return  # it cannot be created without weights, so the training will show
    except UserError:
        raise
    except Exception as error:  # a wrong value may make PEFT raise anything
        reason = failure_of(error) if location_in_user_code(error) else reason_of(error)
        raise UserError(f"the adapter cannot be put on {config.model.name}: {reason}") from error
    named = getattr(adapter, "target_modules", None)
    for one in named if isinstance(named, Sequence) and not isinstance(named, str) else ():
        # PEFT accepts a list of which it finds only some.
        if not any(f".{name}".endswith(f".{one}") for name in modules):
            raise UserError(f"adapter.target_modules: {config.model.name} has no module {one!r}")
    name = target_of(type(adapter))
    if not hasattr(adapted, "merge_and_unload"):
        raise UserError(
            f"adapter: wrap of {name} returned {type(adapted).__name__}: it must return the model "
            "with adapters, as PEFT's get_peft_model does"
        )
    if not any(one.requires_grad for one in adapted.parameters()):
        raise UserError(f"adapter: wrap of {name} leaves no weight to train: all are frozen")
    if has_adapter(adapted.get_output_embeddings()):
        raise UserError(
            "adapter.target_modules names the model's head, whose adapter would not be trained: "
            "losses are computed from the head's own matrix; leave it out"
        )


def _replay_rows(config: TrainConfig, splits: Splits, renderer: Renderer) -> TokenRows:
    """The general rows to mix in, in the order in which they are taken."""
    if isinstance(config.replay, SelfReplay) and splits.scorer is None:
        raise UserError(
            "replay=self keeps the answers that the scorer finds correct, and dataset="
            f"{config.dataset.name} has none: name one with dataset.scorer=NAME, or take "
            "another replay"
        )
    if not isinstance(config.replay, Replay):
        return TokenRows()
    rows = encode_training_rows(
        config.replay.examples(), renderer, config.trainer.max_length, "replay rows", skip=None
    )
    if not rows:
        raise UserError(f"replay.path={config.replay.path} has no row with a target token")
    return rows.shuffled(config.seed)  # they are taken in order, often not all


def _training_rows(config: TrainConfig, splits: Splits, renderer: Renderer) -> TokenRows:
    """The training rows; the test rows of `splits` are those that are scored."""
    rows = encode_dataset_rows(config.dataset, splits.train, renderer, config.trainer.max_length)
    if not rows:
        raise UserError(f"dataset={config.dataset.name} has no training row")
    # If nothing is scored, test rows may also be training rows.
    check_overlap(splits, getattr(config.dataset, "max_overlap", 1.0) if config.eval else 1.0)
    return rows


def _validation_rows(config: TrainConfig, splits: Splits, renderer: Renderer) -> TokenRows:
    """The rows for the validation loss, if the config asks for it."""
    dataset, limit = config.dataset, config.trainer.max_length
    if config.trainer.validate:
        rows = encode_dataset_rows(dataset, splits.validation, renderer, limit, "validation rows")
        if not rows:
            where = ": dataset.validation=FILE gives them" * hasattr(dataset, "validation")
            raise UserError(
                f"trainer.validate=true, and dataset={dataset.name} has no validation rows{where}"
            )
        return rows
    if splits.validation and getattr(dataset, "validation", None) is not None:
        log.info("the validation rows are not used: trainer.validate=true computes their loss")
    return TokenRows()
