"""The loss on the validation rows: the mean over all their targets, as in training.

transformers takes the mean of the batches' means, which depends on the batch size. Knows which
rows accelerate deals out twice.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator

from talr_cli.methods.base import TargetTokens


class ValidationLoss:
    """Collects the losses of batches; `mean` is over all of them and of all ranks."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._rows: list[torch.Tensor] = []  # [R, 2]: each row's summed loss and targets

    def add(self, tokens: TargetTokens) -> None:
        """Add a batch of this rank. All ranks must call."""
        counts = tokens.counts
        rows = torch.stack([tokens.sequence_losses().float() * counts, counts.float()], dim=1)
        if self._accelerator.num_processes > 1:
            # accelerate repeats rows so that all ranks have the same number, and drops them here.
            rows = self._accelerator.gather_for_metrics(rows)
        self._rows.append(rows)

    def mean(self) -> float:
        """The mean loss, in nats per target, of what was added since the last call."""
        # Computed on the CPU, since an Apple GPU has no float64.
        total, targets = torch.cat(self._rows).cpu().double().sum(dim=0).tolist()
        self._rows = []
        return total / max(targets, 1.0)
