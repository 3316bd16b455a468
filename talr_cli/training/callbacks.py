"""The trainer's callbacks: record every step, stop on request or divergence, show the progress."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from talr_cli import progress, ranks
from talr_cli.errors import DivergedError
from talr_cli.interruption import Stop
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker
from talr_cli.training.points import step_at

log = logging.getLogger(__name__)

_NAMES = {"learning_rate": "lr", "eval_loss": "validation_loss"}


# A model that gives every token the same probability has the loss ln(vocabulary). A loss 1.5 times
# as high, in several steps in a row, means divergence; short rows may cause it in a single step.
EXPLODED = 1.5
STEPS_EXPLODED = 3
# The loss scale is for gradients: a model whose own states are too large for fp16 fails at once.
IN_FP16 = ": it is computed in fp16, which ends at 65504; trainer.precision=fp32 goes further"


class RecordSteps(TrainerCallback):
    """Writes every logged step to metrics.jsonl and to the tracker.

    Args:
        vocabulary: The size of the vocabulary, for the loss at which the run counts as diverged.

    Raises:
        DivergedError: From the training, as soon as it has diverged.
    """

    def __init__(self, directory: RunDirectory, tracker: Tracker, vocabulary: int) -> None:
        self._directory = directory
        self._tracker = tracker
        self._limit = EXPLODED * math.log(vocabulary)
        self._above = 0  # how many of the last steps had a loss above the limit

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = kwargs["logs"]
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        metrics = {
            _NAMES.get(key, key): value
            for key, value in logs.items()
            if isinstance(value, int | float) and not key.startswith(("eval_runtime", "eval_s"))
        }
        self._directory.append_metrics(state.global_step, metrics)
        self._tracker.log(state.global_step, metrics)
        for name in ("loss", "penalty", "weighted_loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                found = f"{name} is {metrics[name]} at step {state.global_step}"
                raise DivergedError(found + (IN_FP16 if "loss_scale" in metrics else ""))
        if "loss" in metrics:
            self._above = self._above + 1 if metrics["loss"] > self._limit else 0
        if self._above >= STEPS_EXPLODED:
            raise DivergedError(
                f"loss is {metrics['loss']:.1f} at step {state.global_step}, above "
                f"{self._limit:.1f} for {self._above} steps: that is {EXPLODED} times the loss of "
                "a model that knows nothing"
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._directory.sync_metrics()


class StopOnRequest(TrainerCallback):
    """Ends the training after its last step or, with a checkpoint, when a stop is requested.

    Args:
        at: The share of the steps after which the training ends.
    """

    def __init__(self, stop: Stop, at: float) -> None:
        self._stop = stop
        self._at = at

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # All ranks stop after the same step.
        if self.is_last(args, state) or ranks.any_of(self._stop.requested):
            control.should_training_stop = True

    def is_last(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Whether the training has made its last step."""
        return state.global_step >= step_at(self._at, args, state.max_steps)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The trainer calls this when it stops within an epoch, too. The checkpoint is requested
        # only here: written twice, it would be incomplete in between.
        if control.should_training_stop and not self.is_last(args, state):
            control.should_save = True
            if state.epoch is not None and not state.epoch.is_integer():
                control.should_evaluate = False


class ShowProgress(TrainerCallback):
    """Shows the progress and the loss, until the context `shown` is left.

    Args:
        at: The share of the steps after which the training ends.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self.shown = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = step_at(self._at, args, state.max_steps)
        self._work = self.shown.enter_context(
            progress.work("training", total=steps, done=state.global_step)
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = kwargs["logs"]
        if not state.is_world_process_zero or "weighted_loss" not in logs:
            return
        self._work.done, self._work.label = state.global_step, f"loss {logs['loss']:.3f}"
