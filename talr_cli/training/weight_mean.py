"""The moving average of the weights over a training, kept beside it.

Knows the model that is trained and checkpoints; changes nothing about the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

NAME = "weight_mean"  # in a checkpoint: a file, or a folder where the weights are split up


class WeightMean:
    """m = decay * m + (1 - decay) * theta in fp32, of all that is trained; first m = theta."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._mean: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take in the weights that an optimizer step has left."""
        for name, weight in _trained(model):
            if name not in self._mean:
                self._mean[name] = weight.detach().to(torch.float32, copy=True)
            else:
                _own(self._mean[name]).lerp_(_own(weight).float(), 1 - self._decay)

    @contextmanager
    def in_place_of_weights(self, model: torch.nn.Module) -> Iterator[None]:
        """Inside, the model has the mean; afterwards its weights are back, bit for bit."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    @torch.no_grad()
    def swap(self, model: torch.nn.Module) -> None:
        """The mean becomes the model's weights, and they the mean."""
        if isinstance(model, FSDPModule):
            model.reshard()  # a pass without gradients leaves what the root holds whole
        # There is no mean where no step was made: fp16 may have left out all of them.
        for name, weight in _trained(model) if self._mean else ():
            mean = self._mean[name]
            if isinstance(weight, DTensor):  # FSDP2 holds on to the memory that it lies in
                before = _own(weight).clone()
                _own(weight).copy_(_own(mean))
                _own(mean).copy_(before)
            else:
                self._mean[name], weight.data = weight.data, mean

    def save(self, folder: Path, is_main: bool) -> None:
        """Into a checkpoint; all ranks call it."""
        if any(isinstance(mean, DTensor) for mean in self._mean.values()):
            import torch.distributed.checkpoint as sharded

            sharded.save(dict(self._mean), checkpoint_id=folder / NAME)
        elif is_main:
            from safetensors.torch import save_file

            save_file(self._mean, folder / f"{NAME}.safetensors")

    def load(self, folder: Path, model: torch.nn.Module) -> None:
        """What `save` has written, for `model`, which has its weights; all ranks call it."""
        self._mean = {}
        self.update(model)  # in the form that the weights have
        if (folder / NAME).is_dir():
            import torch.distributed.checkpoint as sharded

            sharded.load(self._mean, checkpoint_id=folder / NAME)
            return
        from safetensors.torch import load_file

        written = load_file(folder / f"{NAME}.safetensors")
        for name, mean in self._mean.items():
            mean.copy_(written[name])


class KeepMean(TrainerCallback):
    """Updates the mean after each optimizer step.

    Args:
        loss_scale: fp16's, as it is now; None without one. It falls when a step is left out because
            its gradient is not finite, which a fused optimizer does without telling anyone.
    """

    def __init__(self, mean: WeightMean, loss_scale: Callable[[], torch.Tensor | None]) -> None:
        self._mean = mean
        self._loss_scale = loss_scale
        self._before: torch.Tensor | None = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scale = self._loss_scale()
        self._before = None if scale is None else scale.clone()  # it is changed in place

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scale = self._loss_scale()
        if scale is None or self._before is None or bool(scale >= self._before):
            self._mean.update(kwargs["model"])


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)


def _own(weight: torch.Tensor) -> torch.Tensor:
    """This rank's part of a weight that is split up, in the memory that it lies in."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
