"""What is logged for an optimizer step, gathered over its micro-batches and ranks."""

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
        self._losses.append(-tokens.log_probs.detach().float())
        self._weights.append(weights.detach().float())
        self._tau = tau
        self._tokens += input_tokens

    def add_penalty(self, penalty: Any, parts: torch.Tensor | int, method: str) -> None:
        """A regulariser's part of the step's loss on this rank, to be divided; by which method.

        Raises:
            UserError: It is none.
        """
        value = checked_penalty(method, penalty).detach() / parts
        self._penalty = value if self._penalty is None else self._penalty + value

    def flush(
        self,
        accelerator: Accelerator,
        objective: Objective,
        loss_scale: torch.Tensor | None = None,
    ) -> dict[str, float]:
        """Metrics since the last flush; empty when nothing was added. All ranks must call.

        They are copied to the host together: each copy makes it wait for the device.

        Raises:
            UserError: The objective has given a negative weight, or none to a finite loss.
        """
        if not self._losses:
            return {}
        own_losses, own_weights = torch.cat(self._losses), torch.cat(self._weights)
        no_number = own_losses.isfinite() & ~own_weights.isfinite()
        losses = gather_ragged(own_losses, accelerator)
        weights = gather_ragged(own_weights.masked_fill(no_number, -torch.inf), accelerator)
        penalty = self._penalty
        found = {
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
        # The norm of gradients that FSDP2 has split up is split up too.
        there = {
            name: (one.full_tensor() if isinstance(one, DTensor) else one).float()
            for name, one in found.items()
            if one is not None
        }
        read = torch.stack(list(there.values())).tolist()
        now = time.perf_counter()
        metrics = dict(zip(there, read, strict=True))
        check_least_weight(objective, metrics.pop("least_weight"))
        metrics |= {
            "target_tokens": len(losses),
            "tokens_per_second": self._tokens * accelerator.num_processes / (now - self._since),
        }
        self.__init__()  # type: ignore[misc]
        return metrics


def gather_ragged(values: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """values[N] of every rank, N differing between ranks, joined in rank order."""
    if accelerator.num_processes == 1:
        return values
    padded = accelerator.pad_across_processes(values, pad_index=float("nan"))
    gathered = accelerator.gather(padded)
    return gathered[~gathered.isnan()]
