"""Config -> a trained model in memory: builds the trainer and runs it to the end.

Knows checkpoints and how to go on from one; does not know where the data came from, nor how the
model is scored.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import SFTConfig

from talr_cli.data.rendering import Rendered
from talr_cli.methods.base import Objective
from talr_cli.models import bf16_is_fast
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking import Tracker
from talr_cli.training.callbacks import RecordSteps, ShowProgress
from talr_cli.training.trainer import MethodTrainer

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def train(
    config: DictConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    rows: Sequence[Rendered],
    validation: Sequence[Rendered],
    directory: RunDirectory,
    tracker: Tracker,
    device: str,
) -> dict[str, Any]:
    """Train `model` in place (fp32 parameters); returns the `training` part of the results.

    Goes on from the newest checkpoint in the run directory. On a CPU the same command gives the
    same weights, bit for bit.
    """
    set_seed(config.seed)
    arguments = _arguments(config, directory, device, len(rows))
    trainer = MethodTrainer(
        model=model,
        args=arguments,
        objective=objective,
        processing_class=tokenizer,
        train_dataset=_dataset(rows),
        eval_dataset=_dataset(validation) if validation and config.trainer.validate else None,
        callbacks=[RecordSteps(directory, tracker), ShowProgress()],
    )
    trainer.remove_callback(PrinterCallback)
    step, checkpoint = directory.last_checkpoint() or (0, None)
    if step:
        log.info("training: going on from step %d", step)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    # The fused head and accelerate's autocast live in an attribute of the model: without it the
    # model in memory computes as the saved one does.
    vars(model).pop("forward", None)
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "rows": len(rows),
        "target_tokens": trainer.target_tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(trainer.input_tokens / seconds, 1),
        "peak_memory_gib": round(_peak_memory(device), 3),
        "resumed_from_step": step,
    }


def _dataset(rows: Sequence[Rendered]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


def _arguments(config: DictConfig, directory: RunDirectory, device: str, rows: int) -> SFTConfig:
    trainer = config.trainer
    bf16 = trainer.precision == "bf16" or (trainer.precision == "auto" and bf16_is_fast(device))
    micro = trainer.micro_batch_size or trainer.batch_size
    # max_steps wins where both are given; the schedule runs over the steps that are made.
    steps = trainer.max_steps or math.ceil(rows / trainer.batch_size) * trainer.epochs
    return SFTConfig(
        output_dir=str(directory.checkpoints),
        seed=config.seed,
        data_seed=config.seed,
        learning_rate=config.lr,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(
            trainer.schedule, trainer.schedule
        ),
        warmup_steps=int(trainer.warmup_share * steps),
        num_train_epochs=trainer.epochs,
        max_steps=trainer.max_steps or -1,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=trainer.batch_size // micro,
        optim="adamw_torch_fused",
        adam_beta1=trainer.adam_beta1,
        adam_beta2=trainer.adam_beta2,
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        bf16=bf16,
        use_cpu=device == "cpu",
        activation_checkpointing=trainer.gradient_checkpointing,
        padding_free=trainer.padding_free,
        max_length=None,  # rows come cut to length
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=device != "cpu",
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        eval_strategy="epoch" if trainer.validate else "no",
        save_strategy="epoch" if trainer.checkpoint_every_epoch else "no",
        save_total_limit=2,  # a kill while one is written leaves the one before
        report_to="none",
        disable_tqdm=True,  # ShowProgress has the bar
    )


def _peak_memory(device: str) -> float:
    """GiB: of the GPU's memory, or of this process's resident memory on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def changed_shares(
    model: PreTrainedModel, base: PreTrainedModel, save_dtype: torch.dtype
) -> tuple[float, float]:
    """Share of weights that differ from the base's: as trained, and after rounding to save_dtype.

    At a small learning rate rounding can undo what training did; this is where it shows.
    """
    changed = changed_saved = total = 0
    base_parameters = dict(base.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            trained, original = parameter.cpu(), base_parameters[name].cpu()
            changed += int((trained.float() != original.float()).sum())
            changed_saved += int((trained.to(save_dtype) != original.to(save_dtype)).sum())
            total += trained.numel()
    return changed / total, changed_saved / total
