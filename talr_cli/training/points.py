"""Weights along a training: a copy at each point that was asked for; the training is not changed.

Knows the trainer; does not know what becomes of a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from talr_cli.training.trainer import MethodTrainer

# (the model as the trainer has it, adapters and all; the `training` results so far) -> what is to
# be done once that copy is freed.
Keep = Callable[[Any, dict[str, Any]], Callable[[], None]]


def step_at(share: float, args: TrainingArguments, steps: int) -> int:
    """The step that ends this share of a training: the nearest one, and at least the first.

    Args:
        steps: Those of the whole training. Of epochs they are rounded up, and the share is taken of
            the epochs themselves: the end of a whole epoch is the end of its last step.
    """
    epochs = args.num_train_epochs
    if share < 1 <= epochs and args.max_steps < 0:
        in_epoch = math.floor(steps / epochs + 1e-9)
        return max(1, round(share * epochs * in_epoch))
    return max(1, round(share * steps))


class KeepWeights(TrainerCallback):
    """Hands on a copy of the weights at each point, after its optimizer step.

    Args:
        points: {share of the steps: who takes the copy}.
        load_plain: Loads the model as the trainer got it.
        training: What the training took so far; all ranks call it.
    """

    def __init__(
        self,
        trainer: MethodTrainer,
        points: Mapping[float, Keep],
        load_plain: Callable[[], Any],
        training: Callable[[], dict[str, Any]],
    ) -> None:
        self._trainer = trainer
        self._points = points
        self._load_plain = load_plain
        self._training = training

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for share, keep in self._points.items():
            if step_at(share, args, state.max_steps) == state.global_step:
                training = self._training()
                mean = self._trainer.mean
                final = mean.in_place_of_weights(self._trainer.model) if mean else nullcontext()
                # A copy's fresh adapters are drawn before they are overwritten: the dropout of the
                # steps that follow must not depend on that.
                drawn = torch.random.fork_rng(devices=[])
                with self._trainer.meter.paused(), final, drawn:
                    copy = copy_of(self._trainer, self._load_plain)
                    if copy is not None:
                        then = keep(copy, training)
                        del copy
                        then()


def copy_of(trainer: MethodTrainer, load_plain: Callable[[], Any]) -> Any | None:
    """The trained model on the CPU, gathered from all ranks; None on all but the first.

    Adapters are put on the base as it is stored, whatever it was held in while they were trained.
    """
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    model = load_plain()
    if isinstance(trainer.model, PeftModel):
        trained = {name for name, one in trainer.model.named_parameters() if one.requires_grad}
        state = {name: state[name] for name in trained}
    model.load_state_dict(state, strict=not isinstance(model, PeftModel))
    return model
