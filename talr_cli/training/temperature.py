"""The batch statistic tau of an objective, taken over the whole optimizer step.

tau is a median over sequences, which, unlike a sum, cannot be added up over micro-batches. Knows
over which sequences tau is taken; the objective knows how.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from talr_cli.methods.base import Objective, TargetTokens
from talr_cli.training.step_statistics import gather_ragged


class StepTemperature:
    """Follows the optimizer steps of a training and gives the tau of each micro-batch."""

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self._objective = objective
        self._accelerator = accelerator
        self._scope = objective.tau_scope
        self._collected: list[torch.Tensor] = []
        self.lagged: torch.Tensor | None = None
        self._tau: torch.Tensor | None = None
        self._accumulates = False

    def start_step(self, batches: int, score: Callable[[int], TargetTokens]) -> None:
        """Start a new optimizer step; the arguments are those of `StepWeights.start_step`."""
        self._accumulates = batches > 1
        if self._scope != "step" or not self._accumulates:
            return
        if self._collected:
            self.lagged = self._over_ranks(torch.cat(self._collected))
            self._collected = []
        if self._objective.tau_estimator == "exact" or self.lagged is None:
            scored = [self._objective.sequence_losses(score(one)) for one in range(batches)]
            self._tau = self._over_ranks(torch.cat(scored))
        else:
            self._tau = self.lagged

    def next_tau(self, tokens: TargetTokens) -> torch.Tensor | None:
        """The tau of the next micro-batch, which is then counted as trained; None without one."""
        if self._scope == "step" and self._accumulates:
            self._collected.append(self._objective.sequence_losses(tokens).float())
        return self.tau_of(tokens)

    def tau_of(self, tokens: TargetTokens) -> torch.Tensor | None:
        """The tau of a micro-batch, without counting it as trained; None without one."""
        if self._scope == "none":
            return None
        if self._scope == "step" and self._accumulates:
            return self._tau
        losses = self._objective.sequence_losses(tokens).float()
        if self._scope == "microbatch":
            # In an epoch's last batch a rank may have no targets.
            return self._objective.temperature(losses) if len(losses) else losses.new_ones(())
        return self._over_ranks(losses)

    def state(self) -> float | None:
        """The lagged tau of the next step, for a checkpoint. All ranks must call."""
        if self._collected:
            return float(self._over_ranks(torch.cat(self._collected)))
        return None if self.lagged is None else float(self.lagged)

    def restore(self, state: float | None) -> None:
        device = self._accelerator.device
        self.lagged = None if state is None else torch.tensor(state, device=device)

    def _over_ranks(self, losses: torch.Tensor) -> torch.Tensor:
        return self._objective.temperature(gather_ragged(losses, self._accelerator))
