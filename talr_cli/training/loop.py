"""Config -> a trained model in memory: builds the trainer and runs it to the end.

Knows checkpoints and how to go on from one; does not know where the data came from, nor how the
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

from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.interruption import Stop
from talr_cli.methods.adapters import warn_of_low_rate
from talr_cli.methods.averaging import Ema
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.schedules import Schedule
from talr_cli.models.frozen import is_whole
from talr_cli.models.head import causal_lm, check_head
from talr_cli.models.loading import choose_precision
from talr_cli.models.sources import ModelSource
from talr_cli.ranks import (
    DistributedConfig,
    broadcast,
    is_sharded,
    one_per_node_first,
    per_rank,
    world_size,
)
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker
from talr_cli.training.callbacks import RecordSteps, ShowProgress, StopOnRequest
from talr_cli.training.columns import Base, columns_of, dataset_of, token_columns
from talr_cli.training.config import TrainerConfig
from talr_cli.training.joined_rows import joins_rows
from talr_cli.training.points import Keep, KeepWeights, copy_of
from talr_cli.training.trainer import MethodTrainer
from talr_cli.training.weight_mean import WeightMean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """How to train: what the optimizer, the schedule and the processes depend on."""

    trainer: TrainerConfig
    optimizer: Optimizer
    schedule: Schedule
    lr: float
    seed: int
    distributed: DistributedConfig
    device: str

    @property
    def half(self) -> torch.dtype | None:
        """What forward and backward pass are computed in, under autocast; None: fp32."""
        precision, _ = choose_precision(self.trainer.precision, self.device)
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


@dataclass(frozen=True)
class TrainingData:
    """The rows as tokens; `general` ones are taken along by the training rows under replay.

    `validation` rows are those whose loss is asked for, `facts` what the `training` results say.
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
    """Run a trainer to the end; the trained model and the `training` results.

    Goes on from the newest checkpoint in the run directory. On a CPU, and on a GPU inside of
    `determinism.same_bits`, the same command gives the same weights, bit for bit. All ranks must
    call; None on all but the first.

    Args:
        load_plain: Loads the model as the trainer got it, but in fp32: for copies, for weights that
            FSDP2 has split up, for a base that is held in fewer bytes.
        at: The share of the steps after which it ends, as an interruption would end it.
        points: {share of the steps: who takes a copy of the model there}.

    Raises:
        KeyboardInterrupt: A stop was requested; the last finished step is in a checkpoint.
        DivergedError: It makes no sense to go on.
    """
    vocabulary = causal_lm(trainer.model).config.get_text_config().vocab_size
    trainer.add_callback(RecordSteps(directory, tracker, vocabulary))
    show = ShowProgress(at)
    trainer.add_callback(show)
    last = StopOnRequest(stop, at)
    trainer.add_callback(last)
    trainer.remove_callback(PrinterCallback)
    # Another machine of a shared file system may still see what the first rank has removed.
    step, checkpoint = broadcast(directory.last_checkpoint()) or (0, None)
    if checkpoint is not None:
        _check_strategy(checkpoint, trainer.is_fsdp_enabled)
        log.info("training: going on from step %d", step)
    if points:
        taken = partial(_training, trainer, step)
        trainer.add_callback(KeepWeights(trainer, points, load_plain, taken))
    with show.shown:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not last.is_last(trainer.state):
        raise KeyboardInterrupt
    training = _training(trainer, step)
    if trainer.mean is not None:
        trainer.mean.swap(trainer.model)
    is_as_loaded = is_whole(trainer.model) and not trainer.is_fsdp_enabled
    model = trainer.model if is_as_loaded else copy_of(trainer, load_plain)
    if not trainer.accelerator.is_main_process:
        return None
    trainer.leave_model_as_loaded()
    return model, training


def _training(trainer: MethodTrainer, step: int) -> dict[str, Any]:
    """The `training` results so far, of a training that went on from `step`; all ranks call it."""
    spent, accelerator = trainer.meter.read(), trainer.accelerator
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "rows": len(trainer.train_dataset),
        "target_tokens": trainer.target_tokens,
        **trainer.facts,
        # What the next three are about: all steps, however often the training went on.
        "timed_steps": trainer.state.global_step,
        "seconds": round(spent.seconds, 2),
        "tokens_per_second": round(spent.input_tokens / spent.seconds, 1),
        "peak_memory_gib": round(spent.peak_memory_gib, 3),  # of the process with the most
        "device": device_name(accelerator.device.type),
        "processes": accelerator.num_processes,  # on GPUs, one each
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
    """The trainer of a method for `model`, the base, which it trains in place.

    Args:
        model: In fp32; under an adapter as `load_frozen` makes it. One that FSDP2 will split up
            still lies on the CPU.
        load_base: Loads another copy of the base, for a method that needs its predictions. Takes
            a dtype; None is that of its checkpoint.
        base_path: What an adapter calls its base.

    Raises:
        UserError: The model's losses would not be its own, or a part of the method cannot be made.
    """
    check_head(model)
    set_seed(setting.seed)  # the adapter's initialisation depends on it
    device = setting.device
    with one_per_node_first():
        of_base = Base(model, base.fingerprint, setting.half, device)
        columns = columns_of(method, data.rows, data.general, of_base)
    adapted: Any = model
    if method.adapter is not None:
        adapted = method.adapter.wrap(model, base_path)
        warn_of_low_rate(setting.lr)
    arguments = trainer_arguments(setting, directory)
    # A part that a text batch does not reach, such as a vision tower, has no gradient to wait for.
    arguments.ddp_find_unused_parameters = model.config.get_text_config() is not model.config
    arguments.padding_free = joins_rows(
        setting.trainer.padding_free,
        model,
        device,
        arguments.per_device_train_batch_size,
        setting.half,
    )
    return MethodTrainer(
        model=adapted,
        args=arguments,
        optimizer_cls_and_kwargs=setting.optimizer.maker(setting.lr),
        objective=method.objective,
        # Copies: a schedule remembers this training's losses and a regulariser holds the base's
        # weights, and the config's own objects outlive the trainer.
        schedule=copy.deepcopy(setting.schedule),
        regulariser=copy.copy(method.regulariser),
        mean=WeightMean(method.merge.decay) if isinstance(method.merge, Ema) else None,
        # Without autocast a bf16 copy would round the predictions that fp32 is compared with.
        load_base=partial(load_base, torch.float32 if setting.half is None else None),
        general=columns.general,
        compiled=setting.trainer.compile,
        facts={**data.facts, **columns.facts},
        processing_class=tokenizer,
        train_dataset=dataset_of(columns.rows),
        eval_dataset=dataset_of(token_columns(data.validation)) if data.validation else None,
    )


def trainer_arguments(setting: Setting, directory: RunDirectory) -> SFTConfig:
    """The settings in TRL's terms."""
    trainer, device = setting.trainer, setting.device
    sharded = is_sharded(setting.distributed)
    micro, accumulation = per_rank(trainer.batch_size, trainer.rows_at_once, world_size())
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
        bf16=setting.half == torch.bfloat16,
        fp16=setting.half == torch.float16,
        use_cpu=device == "cpu",
        activation_checkpointing=trainer.gradient_checkpointing is True,
        max_length=None,  # rows come cut to length
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        eval_strategy="epoch" if trainer.validate else "no",
        save_strategy="epoch" if trainer.checkpoint_every_epoch else "no",
        save_total_limit=None,  # the trainer removes old ones when the new one is whole
        report_to="none",
        disable_tqdm=True,  # ShowProgress has the bar
        fsdp=sharded or None,  # type: ignore[arg-type]
        fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"} if sharded else None,
    )
    # Batches lie in pinned memory, so that the host need not wait for their copies.
    accelerator: Any = arguments.accelerator_config
    accelerator.non_blocking = device == "cuda"
    if sharded:
        _split_up(arguments, device)
    # One process, one GPU: transformers would spread the model over all that it sees.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _split_up(arguments: SFTConfig, device: str) -> None:
    """What FSDP2 is to do otherwise than accelerate has it."""
    accelerator: Any = arguments.accelerator_config
    # Each micro-batch's gradient is split up at once: added up first, every rank would hold the
    # whole of it.
    accelerator.gradient_accumulation_kwargs = {"sync_each_batch": True}
    # As with DDP, weights and gradients travel in fp32 and autocast decides what is computed in
    # bf16; accelerate's policy would round gradients to bf16 before they are added up.
    arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    if device == "cpu":
        # accelerate would quietly fall back to DDP; torch shards on CPUs as well.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _check_strategy(checkpoint: Path, sharded: bool) -> None:
    was_sharded = any(checkpoint.glob("pytorch_model_fsdp*"))
    if was_sharded != sharded:
        before, now = ("fsdp2", "ddp") if was_sharded else ("ddp", "fsdp2")
        raise UserError(
            f"{checkpoint} was written under distributed.strategy={before} and cannot be read "
            f"under {now}: go on with distributed={before}, or delete it to start again"
        )


def device_name(device: str) -> str:
    """What the hours of training were spent on: the GPU's product name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def weight_changes(
    model: PreTrainedModel, base: PreTrainedModel, save_dtype: torch.dtype
) -> dict[str, float]:
    """How far the weights are from the base's.

    `changed_share` of them differ as trained, `changed_share_saved` after rounding to save_dtype:
    at a small learning rate rounding can undo what training did. `distance` is the Euclidean one,
    as trained.
    """
    changed = changed_saved = total = 0
    squares = 0.0
    base_parameters = dict(base.named_parameters(remove_duplicate=False))  # a head too
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
