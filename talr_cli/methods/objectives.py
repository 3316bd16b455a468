"""The objectives of the study. Definitions: arXiv 2509.20758 (TALR).

torch is only used through the tensors that come in, so that a config can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from talr_cli.errors import UserError
from talr_cli.methods.base import Objective, TargetTokens

if TYPE_CHECKING:
    import torch


@dataclass
class Sft(Objective):
    """Standard supervised fine-tuning: every target token weighs 1."""

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        return tokens.log_probs.new_ones(tokens.log_probs.shape)


@dataclass
class Talr(Objective):
    """Token-adaptive loss reweighting: w = max(p^(1/tau), w_min), p the token's probability.

    tau is the median over the sequences of a batch of their mean loss. What the batch is:

    tau_scope=step        all sequences of the optimizer step, however they are cut up. Without
                          accumulation it is exact and free. With accumulation `tau_estimator`
                          decides: `lagged` takes the median of the step before (free; the first
                          step costs one more forward pass), `exact` runs a forward pass over all
                          micro-batches first (about a third more time per step).
    tau_scope=microbatch  the sequences of one forward pass: tau depends on the memory you have.
    tau=0.5               fixed.

    `median` is the convention for an even number of sequences: `lower` of the two middle values
    (torch.median) or their `mean`. The source names neither it nor a normalisation of the weights;
    `normalise` scales them to mean 1 over the targets of a forward pass.
    """

    tau: float | None = None
    tau_scope: str = "step"
    tau_estimator: str = "lagged"
    tau_min: float = 1e-6
    median: str = "lower"
    w_min: float = 0.01
    normalise: bool = False

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("tau_scope", self.tau_scope, ("step", "microbatch", "none")),
            ("tau_estimator", self.tau_estimator, ("lagged", "exact")),
            ("median", self.median, ("lower", "mean")),
        ):
            if value not in choices:
                raise UserError(f"objective.{name}={value} is not one of {', '.join(choices)}")
        if self.tau is not None:
            self.tau_scope = "none"
        elif self.tau_scope == "none":
            raise UserError("objective.tau_scope=none needs a fixed temperature: objective.tau=0.5")

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        if self.median == "lower":
            return sequence_losses.median()
        return sequence_losses.quantile(0.5)

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        temperature = self.tau if tau is None else tau.to(tokens.log_probs)
        if temperature is None:
            raise ValueError("Talr.weights needs tau, fixed or measured")
        least = self.tau_min
        floored = (
            max(temperature, least)
            if isinstance(temperature, float)
            else temperature.clamp(min=least)
        )
        weights = (tokens.log_probs.detach() / floored).exp().clamp(min=self.w_min)
        return weights / weights.mean() if self.normalise and len(weights) else weights
