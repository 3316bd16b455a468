"""The metrics that are logged for an optimizer step, over its micro-batches and ranks."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY, Objective, TargetTokens
from talr_cli.methods.checks import check_least_weight, checked_penalty


class StepStatistics:
    """Collects detached per-token values; `flush` turns them into one row of metrics."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []
        self._tau: torch.Tensor | None = None
        self._penalty: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | None = None  # before clipping
        self._tokens = 0
        self._since = time.perf_counter()

    def add(
        self,
        tokens: TargetTokens,
        weights: torch.Tensor,
        tau: torch.Tensor | None,
        input_tokens: int,
    ) -> None:
        """Add a micro-batch of this rank: its targets, their weights[N] and its tau."""
        self._losses.append(-tokens.log_probs.detach().float())
        self._weights.append(weights.detach().float())
        self._tau = tau
        self._tokens += input_tokens

    def add_penalty(self, penalty: Any, parts: torch.Tensor | int, method: str) -> None:
        """Add this rank's part of a regulariser's penalty, divided by `parts`.

        Raises:
            UserError: `method` of the regulariser returned something else than a penalty.
        """
        value = checked_penalty(method, penalty).detach() / parts
        self._penalty = value if self._penalty is None else self._penalty + value

    def flush(
        self,
        accelerator: Accelerator,
        objective: Objective,
        loss_scale: torch.Tensor | None = None,
    ) -> dict[str, float]:
        """The metrics since the last flush, empty if nothing was added. All ranks must call.

        They are copied to the host in one go, since every copy makes it wait for the device.

        Raises:
            UserError: The objective gave a negative weight, or none to a finite loss.
        """
        if not self._losses:
            return {}
        own_losses, own_weights = torch.cat(self._losses), torch.cat(self._weights)
        no_number = own_losses.isfinite() & ~own_weights.isfinite()
        losses = gather_ragged(own_losses, accelerator)
        weights = gather_ragged(own_weights.masked_fill(no_number, -torch.inf), accelerator)
        penalty = self._penalty
        metrics = {
            "loss": losses.mean(),
            "hard_token_share": (losses.neg().exp() < HARD_TOKEN_PROBABILITY).float().mean(),
            "least_weight": weights.min(),
            "weight_mean": weights.mean(),
            "weight_p10": weights.quantile(0.1),
            "weight_p50": weights.quantile(0.5),
            "weight_p90": weights.quantile(0.9),
            "tau": self._tau,
            "penalty": None if penalty is None else accelerator.reduce(penalty, "sum"),
            "grad_norm": self.grad_norm,
            "loss_scale": loss_scale,
        }
        # The norm of sharded gradients is a sharded tensor itself.
        tensors = {
            name: (metric.full_tensor() if isinstance(metric, DTensor) else metric).float()
            for name, metric in metrics.items()
            if metric is not None
        }
        numbers = torch.stack(list(tensors.values())).tolist()
        seconds = time.perf_counter() - self._since
        flushed = dict(zip(tensors, numbers, strict=True))
        check_least_weight(objective, flushed.pop("least_weight"))
        flushed |= {
            "target_tokens": len(losses),
            "tokens_per_second": self._tokens * accelerator.num_processes / seconds,
        }
        self.__init__()  # type: ignore[misc]
        return flushed


def gather_ragged(values: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """The values[N] of all ranks, whose N may differ, concatenated in the order of ranks."""
    if accelerator.num_processes == 1:
        return values
    padded = accelerator.pad_across_processes(values, pad_index=float("nan"))
    gathered = accelerator.gather(padded)
    return gathered[~gathered.isnan()]
