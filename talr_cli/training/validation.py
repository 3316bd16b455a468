"""The loss on the validation rows: the mean over their targets, as the training's loss is.

transformers takes the mean of its batches' means, the last and smaller one among them, which
depends on how many rows the memory holds. Knows which rows accelerate deals out twice.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator

from talr_cli.methods.base import TargetTokens


class ValidationLoss:
    """Collects the losses of batches; `mean` is over all of them and of all ranks."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._rows: list[torch.Tensor] = []  # of each row the sum of its losses and its targets

    def add(self, tokens: TargetTokens) -> None:
        """A batch of this rank. All ranks must call."""
        counts = tokens.target_counts()
        rows = torch.stack([tokens.sequence_losses().float() * counts, counts.float()], dim=1)
        if self._accelerator.num_processes > 1:
            # Every rank has as many rows, the first ones twice if need be: there they are left out.
            rows = self._accelerator.gather_for_metrics(rows)
        self._rows.append(rows)

    def mean(self) -> float:
        """In nats per target, of what was added since the last call."""
        # On the CPU, as an Apple GPU has no float64.
        total, targets = torch.cat(self._rows).cpu().double().sum(dim=0).tolist()
        self._rows = []
        return total / max(targets, 1.0)
