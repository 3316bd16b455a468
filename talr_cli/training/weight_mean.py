"""Keeps the moving average of the weights during a training, which stays unchanged by that.

Knows the model that is trained, and checkpoints.
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

from talr_cli.methods.regularisers import local_part

FILE_NAME = "weight_mean"  # in a checkpoint: a file, or a folder if FSDP2 shards the weights


class WeightMean:
    """m = decay * m + (1 - decay) * theta of the trained weights, in fp32; at first m = theta."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._mean: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Update the mean after an optimizer step."""
        for name, weight in _trained_weights(model):
            if name not in self._mean:
                self._mean[name] = weight.detach().to(torch.float32, copy=True)
            else:
                local_part(self._mean[name]).lerp_(local_part(weight).float(), 1 - self._decay)

    @contextmanager
    def in_place_of_weights(self, model: torch.nn.Module) -> Iterator[None]:
        """Within this context the model has the mean as its weights; they return bit for bit."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    @torch.no_grad()
    def swap(self, model: torch.nn.Module) -> None:
        """Swap the mean and the model's weights."""
        if isinstance(model, FSDPModule):
            model.reshard()  # a forward pass without gradients leaves the root's weights gathered
        # There is no mean if no step was made: with fp16 all of them may have been skipped.
        for name, weight in _trained_weights(model) if self._mean else ():
            mean = self._mean[name]
            if isinstance(weight, DTensor):  # FSDP2 keeps references to its memory
                before = local_part(weight).clone()
                local_part(weight).copy_(local_part(mean))
                local_part(mean).copy_(before)
            else:
                self._mean[name], weight.data = weight.data, mean

    def save(self, folder: Path, is_main: bool) -> None:
        """Write the mean into a checkpoint; all ranks call it."""
        if any(isinstance(mean, DTensor) for mean in self._mean.values()):
            import torch.distributed.checkpoint as sharded

            sharded.save(dict(self._mean), checkpoint_id=folder / FILE_NAME)
        elif is_main:
            from safetensors.torch import save_file

            save_file(self._mean, folder / f"{FILE_NAME}.safetensors")

    def load(self, folder: Path, model: torch.nn.Module) -> None:
        """Read what `save` has written; all ranks call it.

        Args:
            model: With the weights of the same checkpoint.
        """
        self.update(model)  # makes tensors of the right shapes, sharded as the weights are
        if (folder / FILE_NAME).is_dir():
            import torch.distributed.checkpoint as sharded

            sharded.load(self._mean, checkpoint_id=folder / FILE_NAME)
            return
        from safetensors.torch import load_file

        written = load_file(folder / f"{FILE_NAME}.safetensors")
        for name, mean in self._mean.items():
            mean.copy_(written[name])


class UpdateMean(TrainerCallback):
    """Updates the mean after each optimizer step.

    Args:
        loss_scale: Gives the current loss scale of fp16; None without one. It falls when a step is
            skipped because its gradient is not finite, which a fused optimizer does silently.
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


def _trained_weights(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)
