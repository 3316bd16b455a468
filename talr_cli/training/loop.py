"""Builds the trainer from the config, and runs it to the end, up to a trained model in memory.

Knows checkpoints and how to resume from one. Does not know where the data came from, nor how the
model is scored.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import SFTConfig

from talr_cli import ranks
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.interruption import Stop
from talr_cli.methods.adapters import warn_of_low_lr
from talr_cli.methods.averaging import Ema
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.schedules import Schedule
from talr_cli.models.frozen import is_fp32
from talr_cli.models.head import causal_lm, check_head
from talr_cli.models.loading import choose_precision
from talr_cli.models.sources import ModelSource
from talr_cli.ranks import DistributedConfig
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker
from talr_cli.training.base_losses import BaseModel
from talr_cli.training.callbacks import RecordSteps, ShowProgress, StopOnRequest
from talr_cli.training.columns import dataset_of, make_columns, token_columns
from talr_cli.training.config import TrainerConfig
from talr_cli.training.joined_rows import should_join_rows
from talr_cli.training.points import Keep, KeepWeights, gather_model
from talr_cli.training.sharded_checkpoint import read_as_data
from talr_cli.training.trainer import MethodTrainer
from talr_cli.training.weight_mean import WeightMean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """The settings of a training that are neither data nor method."""

    trainer: TrainerConfig
    optimizer: Optimizer
    schedule: Schedule
    lr: float
    seed: int
    distributed: DistributedConfig
    device: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of forward and backward pass under autocast; None: fp32, without autocast."""
        precision, _ = choose_precision(self.trainer.precision, self.device)
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


@dataclass(frozen=True)
class TrainingData:
    """The rows as tokens.

    Attributes:
        rows: The training rows.
        validation: The rows for the validation loss.
        general: The rows for replay.
        facts: What is added to the `training` results about them.
    """

    rows: Sequence[Rendered]
    validation: Sequence[Rendered]
    general: Sequence[Rendered]
    facts: Mapping[str, float] = field(default_factory=dict)


def train(
    trainer: MethodTrainer,
    directory: RunDirectory,
    tracker: Tracker,
    stop: Stop,
    load_plain: Callable[[], Any],
    at: float = 1.0,
    points: Mapping[float, Keep] | None = None,
) -> tuple[Any, dict[str, Any]] | None:
    """Run a trainer to the end, from the newest checkpoint in the run directory if there is one.

    On a CPU, and on a GPU within `determinism.deterministic_sums`, the same command gives the same
    weights, bit for bit. All ranks must call.

    Args:
        load_plain: Loads the model as the trainer got it, but in fp32. It is used for copies, for
            weights that FSDP2 shards, and for a base that has a smaller dtype during the training.
        at: The share of the steps after which the training ends, as if it was interrupted there.
        points: {share of the steps: the function that gets a copy of the model there}.

    Returns:
        The trained model and the `training` results; None on all ranks but the first.

    Raises:
        KeyboardInterrupt: A stop was requested; the last finished step is in a checkpoint.
        DivergedError: The loss or the gradient says that the training has failed.
    """
    vocabulary = causal_lm(trainer.model).config.get_text_config().vocab_size
    trainer.add_callback(RecordSteps(directory, tracker, vocabulary))
    progress_bar = ShowProgress(at)
    trainer.add_callback(progress_bar)
    stopping = StopOnRequest(stop, at)
    trainer.add_callback(stopping)
    trainer.remove_callback(PrinterCallback)
    # Only the first rank looks: on a shared file system others may still see removed files.
    step, checkpoint = ranks.broadcast(directory.last_checkpoint()) or (0, None)
    if checkpoint is not None:
        _check_strategy(checkpoint, trainer.is_fsdp_enabled)
        log.info("training: going on from step %d", step)
    if points:
        results = partial(_training_results, trainer, step)
        trainer.add_callback(KeepWeights(trainer, points, load_plain, results))
    with progress_bar.shown, read_as_data(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not stopping.is_last(trainer.args, trainer.state):
        raise KeyboardInterrupt
    training = _training_results(trainer, step)
    if trainer.mean is not None:
        trainer.mean.swap(trainer.model)
    is_as_loaded = is_fp32(trainer.model) and not trainer.is_fsdp_enabled
    model = trainer.model if is_as_loaded else gather_model(trainer, load_plain)
    if not trainer.accelerator.is_main_process:
        return None
    trainer.restore_model()
    return model, training


def _training_results(trainer: MethodTrainer, step: int) -> dict[str, Any]:
    """The `training` results so far, of a training resumed from `step`; all ranks must call."""
    spent, accelerator = trainer.meter.read(), trainer.accelerator
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "rows": len(trainer.train_dataset),
        "target_tokens": trainer.target_tokens,
        **trainer.facts,
        # How many steps the next three are about: all of them, also after interruptions.
        "timed_steps": trainer.state.global_step,
        "seconds": round(spent.seconds, 2),
        "tokens_per_second": round(spent.input_tokens / spent.seconds, 1),
        "peak_memory_gib": round(spent.peak_memory_gib, 3),  # of the process that took most
        "device": device_name(accelerator.device.type),
        "processes": accelerator.num_processes,  # each on a GPU of its own
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "gradient_checkpointing": bool(trainer.args.activation_checkpointing),
        "resumed_from_step": step,
    }


def make_trainer(
    setting: Setting,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    data: TrainingData,
    directory: RunDirectory,
    base: ModelSource,
    load_base: Callable[[torch.dtype | None], PreTrainedModel],
    base_path: str,
) -> MethodTrainer:
    """The trainer that trains `model`, the base, in place by a method.

    Args:
        model: In fp32; with an adapter as `load_frozen` returns it. For FSDP2 it is still on the
            CPU.
        base: Where the model comes from.
        load_base: Loads another copy of the base, for a method that needs its predictions. Takes
            a dtype; None is that of its checkpoint.
        base_path: The hub id or path of the base, for an adapter's config.

    Raises:
        UserError: The head does something that the losses here would miss, or gradient
            checkpointing or a part of the method cannot be made for this model.
    """
    check_head(model)
    if setting.trainer.gradient_checkpointing is True and not model.supports_gradient_checkpointing:
        raise UserError(
            f"{model.config.model_type} models cannot compute layers again in the backward pass: "
            "set trainer.gradient_checkpointing=false"
        )
    set_seed(setting.seed)  # the adapter's initialisation depends on it
    device = setting.device
    with ranks.one_per_node_first():
        of_base = BaseModel(model, base.fingerprint, setting.autocast_dtype, device)
        columns = make_columns(method, data.rows, data.general, of_base)
    adapted: Any = model
    if method.adapter is not None:
        adapted = method.adapter.wrap(model, base_path)
        warn_of_low_lr(setting.lr)
    arguments = trainer_arguments(setting, directory)
    # DDP must not wait for the gradient of parts that a text batch does not reach, such as a vision
    # tower.
    arguments.ddp_find_unused_parameters = model.config.get_text_config() is not model.config
    arguments.padding_free = should_join_rows(
        setting.trainer.padding_free,
        model,
        device,
        arguments.per_device_train_batch_size,
        setting.autocast_dtype,
    )
    return MethodTrainer(
        model=adapted,
        args=arguments,
        optimizer_cls_and_kwargs=setting.optimizer.class_and_arguments(setting.lr),
        objective=method.objective,
        # Copies: a schedule remembers this training's losses and a regulariser holds the base's
        # weights, and the config's own objects outlive the trainer.
        schedule=copy.deepcopy(setting.schedule),
        regulariser=copy.copy(method.regulariser),
        mean=WeightMean(method.merge.decay) if isinstance(method.merge, Ema) else None,
        # If the training computes in fp32, the base's predictions must not be rounded to bf16.
        load_base=partial(load_base, torch.float32 if setting.autocast_dtype is None else None),
        general=columns.general,
        compiled=setting.trainer.compile,
        facts={**data.facts, **columns.facts},
        processing_class=tokenizer,
        train_dataset=dataset_of(columns.rows),
        eval_dataset=dataset_of(token_columns(data.validation)) if data.validation else None,
    )


def trainer_arguments(setting: Setting, directory: RunDirectory) -> SFTConfig:
    """The settings as TRL's SFTConfig."""
    trainer, device = setting.trainer, setting.device
    sharded = ranks.is_sharded(setting.distributed)
    micro, accumulation = ranks.per_rank(
        trainer.batch_size, trainer.rows_at_once, ranks.world_size()
    )
    arguments = SFTConfig(
        output_dir=str(directory.checkpoints),
        seed=setting.seed,
        data_seed=setting.seed,
        learning_rate=setting.lr,
        num_train_epochs=trainer.epochs,
        max_steps=trainer.max_steps or -1,  # wins where both are given
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        **setting.optimizer.arguments(),
        max_grad_norm=trainer.max_grad_norm,
        bf16=setting.autocast_dtype == torch.bfloat16,
        fp16=setting.autocast_dtype == torch.float16,
        use_cpu=device == "cpu",
        activation_checkpointing=trainer.gradient_checkpointing is True,
        max_length=None,  # rows have been cut to length already
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is not finite must be noticed
        eval_strategy="epoch" if trainer.validate else "no",
        save_strategy="epoch" if trainer.checkpoint_every_epoch else "no",
        save_total_limit=None,  # MethodTrainer removes old ones when the new one is complete
        report_to="none",
        disable_tqdm=True,  # ShowProgress has the bar
        fsdp=sharded or None,  # type: ignore[arg-type]
        fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"} if sharded else None,
    )
    # Batches are in pinned memory, so that the host need not wait while they are copied.
    accelerator: Any = arguments.accelerator_config
    accelerator.non_blocking = device == "cuda"
    if sharded:
        _configure_fsdp2(arguments, device)
    # Each process uses one GPU; transformers would use DataParallel on all that it sees.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _configure_fsdp2(arguments: SFTConfig, device: str) -> None:
    """Change accelerate's defaults for FSDP2."""
    accelerator: Any = arguments.accelerator_config
    # The gradient of each micro-batch is sharded at once. By default every rank would accumulate
    # the whole gradient.
    accelerator.gradient_accumulation_kwargs = {"sync_each_batch": True}
    # As with DDP, weights and gradients are sent in fp32, and autocast decides what is computed in
    # bf16. accelerate's policy would round gradients to bf16 before they are summed.
    arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    if device == "cpu":
        # accelerate would silently fall back to DDP, although torch can shard on CPUs as well.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _check_strategy(checkpoint: Path, sharded: bool) -> None:
    """Refuse to resume a checkpoint of DDP under FSDP2, or the other way round."""
    was_sharded = any(checkpoint.glob("pytorch_model_fsdp*"))
    if was_sharded != sharded:
        before, now = ("fsdp2", "ddp") if was_sharded else ("ddp", "fsdp2")
        raise UserError(
            f"{checkpoint} was written under distributed.strategy={before} and cannot be read "
            f"under {now}: go on with distributed={before}, or delete it to start again"
        )


def device_name(device: str) -> str:
    """The product name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def weight_changes(
    model: PreTrainedModel, base: PreTrainedModel, save_dtype: torch.dtype
) -> dict[str, float]:
    """How far the weights are from the base's.

    `changed_share` is the share of weights that training has changed, `changed_share_saved` the
    share that still differ after rounding to `save_dtype`: at a small learning rate rounding can
    undo what training did. `distance` is the Euclidean distance before rounding.
    """
    changed = changed_saved = total = 0
    squares = 0.0
    base_parameters = dict(base.named_parameters(remove_duplicate=False))  # with a tied head
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            trained, original = parameter.cpu(), base_parameters[name].cpu()
            moved = trained.float() - original.float()
            changed += int(moved.count_nonzero())
            changed_saved += int((trained.to(save_dtype) != original.to(save_dtype)).sum())
            squares += float(moved.double().square().sum())
            total += trained.numel()
    return {
        "changed_share": changed / total,
        "changed_share_saved": changed_saved / total,
        "distance": math.sqrt(squares),
    }
