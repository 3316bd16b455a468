"""The batch statistic tau of an objective, made a property of the optimizer step.

A median over sequences is not a sum: it cannot be added up over micro-batches. Knows which
sequences tau is taken over; how, the objective knows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from talr_cli.methods.base import Objective, TargetTokens
from talr_cli.training.step_statistics import gather_ragged


class StepTemperature:
    """Follows the optimizer steps of a training run and answers with tau for each micro-batch."""

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self._objective = objective
        self._accelerator = accelerator
        self._scope = objective.tau_scope
        self._collected: list[torch.Tensor] = []
        self.lagged: torch.Tensor | None = None
        self._tau: torch.Tensor | None = None
        self._accumulates = False

    def start_step(self, batches: int, score: Callable[[int], TargetTokens]) -> None:
        """A new optimizer step over so many micro-batches; `score` runs one without gradient."""
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

    def of(self, tokens: TargetTokens) -> torch.Tensor | None:
        """tau for the weights of this micro-batch; None for an objective without one."""
        if self._scope == "step" and self._accumulates:
            self._collected.append(self._objective.sequence_losses(tokens).float())
        return self.known(tokens)

    def known(self, tokens: TargetTokens) -> torch.Tensor | None:
        """As `of`, of a micro-batch that has not been trained yet."""
        if self._scope == "none":
            return None
        if self._scope == "step" and self._accumulates:
            return self._tau
        losses = self._objective.sequence_losses(tokens).float()
        if self._scope == "microbatch":
            # A rank's share of an epoch's last batch may be empty.
            return self._objective.temperature(losses) if len(losses) else losses.new_ones(())
        return self._over_ranks(losses)

    def state(self) -> float | None:
        """The next step's lagged estimate, for a checkpoint. All ranks must call."""
        if self._collected:
            return float(self._over_ranks(torch.cat(self._collected)))
        return None if self.lagged is None else float(self.lagged)

    def restore(self, state: float | None) -> None:
        device = self._accelerator.device
        self.lagged = None if state is None else torch.tensor(state, device=device)

    def _over_ranks(self, losses: torch.Tensor) -> torch.Tensor:
        return self._objective.temperature(gather_ragged(losses, self._accelerator))
