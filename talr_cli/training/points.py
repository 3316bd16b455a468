"""Takes copies of the weights at given points of a training, which stays unchanged by that.

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

from talr_cli import ranks
from talr_cli.training.trainer import MethodTrainer

# Takes a copy of the model (with its adapters) and the `training` results so far. Returns a
# function that is called when the copy is freed.
Keep = Callable[[Any, dict[str, Any]], Callable[[], None]]


def step_at(share: float, args: TrainingArguments, steps: int) -> int:
    """The number of the step, from 1, that ends this share of a training, rounded.

    Args:
        steps: The steps of the whole training. A fractional number of epochs rounds them up, so the
            share is taken of the epochs: a whole epoch ends with its own last step.
    """
    epochs = args.num_train_epochs
    if share < 1 <= epochs and args.max_steps < 0:
        in_epoch = math.floor(steps / epochs + 1e-9)
        return max(1, round(share * epochs * in_epoch))
    return max(1, round(share * steps))


class KeepWeights(TrainerCallback):
    """Passes on a copy of the weights after the optimizer step of each point.

    Args:
        points: {share of all steps: the function that gets the copy}.
        load_plain: Loads the model as the trainer got it, in fp32.
        training: Gives the `training` results so far; all ranks call it.
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
                # Loading a model with adapters draws their initial weights. The random state is
                # restored, so that the dropout of later steps does not depend on that.
                same_random_state = torch.random.fork_rng(devices=[])
                with self._trainer.meter.paused(), final, same_random_state:
                    copy = gather_model(self._trainer, self._load_plain)
                    if copy is not None:
                        then = keep(copy, training)
                        del copy
                        then()
                    ranks.wait_for_all()  # in the next step their GPUs would be busy waiting


def gather_model(trainer: MethodTrainer, load_plain: Callable[[], Any]) -> Any | None:
    """A copy of the trained model on the CPU, gathered from all ranks; None on all but the first.

    Adapters are put on the base as it is stored, whatever its dtype was while they were trained.
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
