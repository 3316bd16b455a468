"""What happens beside the optimisation: every step is recorded, a run that diverges is stopped."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking import Tracker

log = logging.getLogger(__name__)

_NAMES = {"learning_rate": "lr", "eval_loss": "validation_loss"}


class DivergedError(Exception):
    """The loss or the gradient is no longer a number."""


class RecordSteps(TrainerCallback):
    """Writes every logged step to metrics.jsonl and to the tracker."""

    def __init__(self, directory: RunDirectory, tracker: Tracker) -> None:
        self._directory = directory
        self._tracker = tracker

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        metrics = {
            _NAMES.get(key, key): value
            for key, value in logs.items()
            if isinstance(value, int | float) and not key.startswith(("eval_runtime", "eval_s"))
        }
        self._directory.append_metrics(state.global_step, metrics)
        self._tracker.log(state.global_step, metrics)
        for name in ("loss", "weighted_loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise DivergedError(f"{name} is {metrics[name]} at step {state.global_step}")


class ShowProgress(TrainerCallback):
    """A bar with the time left on a terminal, ten log lines elsewhere."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not (sys.stderr.isatty() and state.is_world_process_zero),
        )
        self._first_step, self._started = state.global_step, time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "weighted_loss" not in logs:
            return
        step, total = state.global_step, state.max_steps
        self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self._bar.update(step - self._bar.n)
        tenth = max(1, total // 10)
        if self._bar.disable and (step % tenth == 0 or step == total):
            spent = time.monotonic() - self._started
            left = spent / max(1, step - self._first_step) * (total - step)
            log.info(
                "training: step %d/%d, loss %.3f, %.0f s left", step, total, logs["loss"], left
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()
