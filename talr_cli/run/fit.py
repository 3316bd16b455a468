"""Checks whether a run fits into memory, and decides how its batches are divided so that it does.

Knows the run and the machine; the estimates come from training/planner.py.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import chain
from typing import Any

from talr_cli import ranks
from talr_cli.methods.replay import assign_replayed_rows
from talr_cli.models import device_memory
from talr_cli.models.checks import rope_switch_length
from talr_cli.models.loading import load_without_weights
from talr_cli.models.shape import Shape, shape_of
from talr_cli.run.prepare import Run
from talr_cli.runs.atomic import NEW_COPY, read_json_object
from talr_cli.training import planner
from talr_cli.training.arithmetic import Arithmetic
from talr_cli.training.config import TrainerConfig

log = logging.getLogger(__name__)


def check_fits(run: Run) -> None:
    """Refuse a training that does not fit, however its batches are divided.

    Raises:
        UserError: Weights, gradient and optimizer state alone are too large.
    """
    shape = shape_of(run.source, run.config.model.architecture)
    if shape is not None:
        _check_state(run, shape, _memory_for_state(run.device))


def _memory_for_state(device: str) -> float:
    """The bytes of memory into which weights, gradient and optimizer state have to fit."""
    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free
    return device_memory.machine_memory()


def _check_state(run: Run, shape: Shape, available: float) -> None:
    where = "of the GPU are free" if run.device == "cuda" else "is what this machine has"
    how = _arithmetic(run, half=True)
    planner.check_minimum(run.config.model.name, shape, run.method, how, available, where)


def plan_batches(run: Run, half: bool) -> TrainerConfig:
    """The trainer's config with `micro_batch_size` and `gradient_checkpointing` decided.

    A resumed run divides its batches as before. All ranks must call it; the choice is what fits the
    rank with the least free memory.

    Args:
        half: Whether autocast computes in bf16 or fp16.

    Raises:
        UserError: One of several ranks has too little memory even for weights, gradient and
            optimizer state.
    """
    trainer = _single_rows_if_needed(run)
    shape = shape_of(run.source, run.config.model.architecture)
    if shape is None:
        log.info("memory: unknown for this kind of model, so batches are not divided")
        return replace(trainer, gradient_checkpointing=trainer.gradient_checkpointing is True)
    if ranks.world_size() > 1:  # only the first rank was checked before
        _check_state(run, shape, min(ranks.gather([_memory_for_state(run.device)])))
    if not (
        isinstance(trainer.gradient_checkpointing, bool)
        or load_without_weights(run.source, run.config.model).supports_gradient_checkpointing
    ):
        trainer = replace(trainer, gradient_checkpointing=False)
    how = _arithmetic(run, half)
    free = min(ranks.gather([device_memory.free_memory(how.device)]))
    plan = _plan(run, shape, how, _with_checkpoint_choices(run, trainer), free)
    if not plan.fits:  # the run may have begun on another machine
        plan = _plan(run, shape, how, trainer, free)
    log.info("%s", plan.line(max(1, trainer.batch_size // how.ranks)))
    if not plan.fits:
        longest = max(chain(run.rows.lengths, run.general.lengths))
        log.warning("%s", planner.overrun_warning(plan, shape, run.method, how, longest))
    return replace(trainer, micro_batch_size=plan.rows, gradient_checkpointing=plan.checkpointing)


def _single_rows_if_needed(run: Run) -> TrainerConfig:
    """The trainer's config, with a micro-batch of 1 if a long row would change the others."""
    trainer = run.config.trainer
    settings = read_json_object(run.source.directory / "config.json", NEW_COPY)
    switch = rope_switch_length(settings)
    longest = max(chain(run.rows.lengths, run.general.lengths))
    if switch is None or longest <= switch or trainer.micro_batch_size == 1:
        return trainer
    log.info(
        "rows go through the model one by one: the longest has %d tokens, and from %d on this "
        "model's positions depend on the longest row of a batch; trainer.max_length=%d avoids it",
        *(longest, switch, switch),
    )
    return replace(trainer, micro_batch_size=1)


def _plan(
    run: Run, shape: Shape, how: Arithmetic, trainer: TrainerConfig, free: float
) -> planner.Plan:
    attention = run.config.model.attention
    joined, varlen = expected_kernel(shape, trainer, attention, how.half, run.device)
    replay_lengths, replay_targets = _replay_lengths(run)
    rows = planner.RowLengths(
        run.rows.lengths,
        [own + more for own, more in zip(run.rows.target_counts, replay_targets, strict=True)],
        joined=joined,
        along=replay_lengths,
        varlen=varlen,
    )
    return planner.choose_plan(shape, run.method, trainer, how, rows, free)


def expected_kernel(
    shape: Shape, trainer: TrainerConfig, attention: str, half: bool, device: str
) -> tuple[bool, bool]:
    """(whether rows will probably be joined, whether one kernel will attend over all of them).

    Whether that kernel works is tried only when the model is loaded.
    """
    from talr_cli.training import varlen

    flash = attention not in ("sdpa", "eager")
    of_torch = device == "cuda" and attention == "sdpa" and half
    kernel = flash or (of_torch and varlen.find_kernel() is not None)
    joined = trainer.padding_free
    if joined is None:
        joined = shape.linear is None and (kernel or device == "cpu")
    return joined, kernel and (flash or joined)


def _replay_lengths(run: Run) -> tuple[list[list[int]], list[int]]:
    """For each training row ([lengths of the replayed rows with it], [number of their targets])."""
    if run.method.replay is None or not run.general:
        return [[] for _ in run.rows], [0] * len(run.rows)
    lengths, targets = run.general.lengths, run.general.target_counts
    assigned = assign_replayed_rows(run.rows.target_counts, targets, run.method.replay.share)
    return (
        [[lengths[index] for index in some] for some in assigned],
        [sum(targets[index] for index in some) for some in assigned],
    )


def _with_checkpoint_choices(run: Run, trainer: TrainerConfig) -> TrainerConfig:
    """The trainer's config with the choices of the newest checkpoint instead of `auto`."""
    from talr_cli.training.trainer import STATE

    _, folder = ranks.broadcast(run.directory.last_checkpoint()) or (0, None)
    state: dict[str, Any] = {}
    if folder is not None:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    rows = trainer.rows_at_once or state.get("rows_at_once")
    if rows is None or trainer.batch_size % (rows * ranks.world_size()):
        return trainer
    checkpointing = trainer.gradient_checkpointing
    if not isinstance(checkpointing, bool):
        checkpointing = state.get("checkpointing", checkpointing)
    return replace(trainer, micro_batch_size=rows, gradient_checkpointing=checkpointing)


def _arithmetic(run: Run, half: bool) -> Arithmetic:
    config = run.config
    return Arithmetic(
        "cuda" if run.device == "cuda" else "cpu",  # an Apple GPU shares the CPU's memory
        half,
        config.optimizer,
        ranks.world_size(),
        ranks.is_sharded(config.distributed),
        config.model.attention == "eager",
        config.trainer.deterministic,
    )
