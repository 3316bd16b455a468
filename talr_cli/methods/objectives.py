"""The objectives: those of the study (arXiv 2509.20758) and later ones of the same family.

torch is only used through the tensors that come in, so that a config can be checked without it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.methods.base import Objective, Step, TargetTokens

if TYPE_CHECKING:
    import torch

# Nats of a row's mean loss by which two passes over the same row may differ through rounding.
ROUNDING = 1e-3


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

    Two controls of ours tell what part of TALR has the effect. `probabilities=base` takes p and tau
    from the base model: a target's weight never changes, so there is no curriculum, and tau is
    known before the step. `shuffle_weights` deals a step's weights out at random among its targets,
    anew in every step: as many large and small ones, but not where they belong.
    """

    tau: float | None = value(
        "fixed temperature; null: the median sequence loss of the batch that tau_scope names",
        None,
        above=0,
        may_be_infinite=True,
    )
    tau_scope: str = value(
        "the batch whose median sequence loss is tau",
        "step",
        choices=("step", "microbatch", "none"),
    )
    tau_estimator: str = value(
        "with gradient accumulation: lagged takes the median of the step before, exact adds "
        "a forward pass",
        "lagged",
        choices=("lagged", "exact"),
    )
    tau_min: float = value("lower bound of the temperature, as in the paper", 1e-6, above=0)
    median: str = value(
        "of an even number of losses: the lower of the two in the middle, or their mean; the "
        "paper does not say",
        "lower",
        choices=("lower", "mean"),
    )
    w_min: float = value(
        "lower bound of the token weights, as in the paper", 0.01, at_least=0, at_most=1
    )
    normalise: bool = value("scale the token weights to mean 1; the paper does not", False)
    probabilities: str = value(
        "the model whose probabilities make the weights: the current one, as in the paper, "
        "or the base",
        "current",
        choices=("current", "base"),
    )
    shuffle_weights: bool = value(
        "a control experiment: deal the weights out at random among the target tokens of a step",
        False,
    )

    def __post_init__(self) -> None:
        if self.tau is not None:
            self.tau_scope = "none"
        elif self.tau_scope == "none":
            raise UserError("objective.tau_scope=none needs a fixed temperature: objective.tau=0.5")
        self.sees_base = self.sees_base_alone = self.probabilities == "base"
        self.looks_at_step = self.shuffle_weights
        if self.sees_base_alone:
            self.tau_estimator = "exact"  # it costs nothing

    @property
    def name(self) -> str:
        """What stands in tables."""
        of_base, shuffled = "-base" * self.sees_base, "-shuffled" * self.shuffle_weights
        return f"talr{of_base}{shuffled}"

    def sequence_losses(self, tokens: TargetTokens) -> torch.Tensor:
        return tokens.sequence_losses(self._log_probs(tokens))

    def _log_probs(self, tokens: TargetTokens) -> torch.Tensor:
        log_probs = tokens.base_log_probs if self.sees_base else tokens.log_probs
        if log_probs is None:
            raise ValueError("Talr.weights needs the base's log-probabilities")
        return log_probs.detach()

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        return _median(sequence_losses, self.median)

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
        weights = (self._log_probs(tokens) / floored).exp().clamp(min=self.w_min)
        return weights / weights.mean() if self.normalise and len(weights) else weights

    def over_step(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        import torch

        drawn = random.Random(f"weights {step.seed} {step.number}").getrandbits(63)
        order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(drawn))
        if weights.is_cuda:
            order = order.pin_memory()  # else the host would wait for the copy
        return weights[order.to(weights.device, non_blocking=True)]


@dataclass
class Flow(Objective):
    """FLOW (Sanyal et al. 2025, arXiv 2502.02797): rows that the base model finds easy weigh more.

    v_s = exp(-L_s / tau), L_s the mean loss of row s under the base model, tau the median of L over
    the training rows, or a fixed number. For an even number of rows the median is the mean of the
    two in the middle, as in the published code.
    """

    tau: float | None = value(
        "fixed temperature; null: the median of the base model's losses on the training rows",
        None,
        above=0,
    )
    median: str = value(
        "of an even number of losses: the lower of the two in the middle, or their mean",
        "mean",
        choices=("lower", "mean"),
    )
    weighs_sequences: ClassVar[bool] = True

    def sequence_weights(self, base_losses: torch.Tensor) -> torch.Tensor:
        tau = float(_median(base_losses, self.median)) if self.tau is None else self.tau
        return (-base_losses / max(tau, 1e-6)).exp()

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        if tokens.sequence_weights is None:
            raise ValueError("Flow.weights needs the rows' weights")
        return tokens.sequence_weights.to(tokens.log_probs)


@dataclass
class Stm(Sft):
    """Selective token masking (arXiv 2501.14315): targets that surprise the base are not trained.

    A target whose perplexity exp(-log p) under the base model is above `threshold` is no target;
    the others weigh 1. The paper takes 2.5, by which 20 to 24 % of its tokens are masked, and its
    code compares with > and divides by the targets that are left, as here.
    """

    threshold: float = value(
        "mask target tokens whose perplexity under the base model is above this", 2.5, above=1
    )
    masks_targets: ClassVar[bool] = True

    def kept(self, base_losses: torch.Tensor) -> torch.Tensor:
        return base_losses <= math.log(self.threshold)


@dataclass
class TailSft(Sft):
    """TailSFT (arXiv 2608.25756): rows that have been learned are left out, anew in every step.

    In a step of S rows, the round(S * fraction) rows whose mean loss has fallen most since the base
    model weigh nothing, but at least one row stays; the loss is the mean over the targets of the
    rows that stay. With `ramp` the fraction rises from 0 in the first step to `fraction` in the
    last.

    We could not read the paper itself. This follows its Algorithm 1 as TRL's example has it
    (examples/tail_sft_gsm8k), whose defaults are ours. The paper chooses among the rows of one
    forward pass of all ranks. We choose among those of the whole optimizer step, so that the choice
    does not depend on memory. Losses that differ by no more than ROUNDING count as equal; of equal
    rows the first are left out.
    """

    fraction: float = value("share of a step's rows that is left out", 0.5, at_least=0, below=1)
    schedule: str = value(
        "ramp: from none in the first step to `fraction` in the last; static: `fraction` in "
        "every step",
        "ramp",
        choices=("ramp", "static"),
    )
    sees_base = True
    looks_at_step = True

    def over_step(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        if tokens.base_log_probs is None:
            raise ValueError("TailSft.over_step needs the base's log-probabilities")
        fallen = tokens.sequence_losses(tokens.base_log_probs) - tokens.sequence_losses()
        fraction = self.fraction
        if self.schedule == "ramp":
            fraction *= step.number / max(step.total - 1, 1)
        count = min(round(len(fallen) * fraction), max(len(fallen) - 1, 0))
        learned = (-fallen / ROUNDING).round().argsort(stable=True)[:count]
        stays = weights.new_ones(len(fallen)).index_fill(0, learned, 0)[tokens.places()]
        return stays * (len(stays) / stays.sum())


@dataclass
class Dft(Objective):
    """Dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629): w = p."""

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        return tokens.log_probs.detach().exp()


@dataclass
class Eaft(Objective):
    """Entropy-adaptive fine-tuning (arXiv 2601.02151): w = (H / scale)^exponent.

    H is the entropy of the prediction restricted to its `top_k` likeliest tokens and renormalised;
    `top_k=null` takes the whole vocabulary, which is another objective and needs a `scale`. The
    default scale is ln(top_k), the greatest H there can be; the public code writes 3.0 for ln(20).
    """

    top_k: int | None = value(
        "compute the entropy over this many of the likeliest tokens; null: the whole vocabulary",
        20,
        at_least=2,
    )
    scale: float | None = value(
        "divide the entropy (nats) by this; null: ln(top_k), the greatest there can be",
        None,
        above=0,
    )
    exponent: float = value("exponent of the scaled entropy", 1.0, at_least=0)

    def __post_init__(self) -> None:
        if self.scale is None:
            if self.top_k is None:
                raise UserError("objective.top_k=null needs a scale: objective.scale=3.0")
            self.scale = math.log(self.top_k)
        self.outputs = ("entropy",) if self.top_k is None else ("topk_entropy",)

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        entropy = tokens.entropy if self.top_k is None else tokens.topk_entropy
        if entropy is None or self.scale is None:
            raise ValueError("Eaft.weights needs the predictions' entropy")
        # Rounding may leave a sure prediction an entropy just below zero.
        return (entropy.detach().clamp(min=0) / self.scale) ** self.exponent


@dataclass
class InfoSft(Objective):
    """InfoSFT (arXiv 2605.14967): w = p * relu(1 - logit(p) / logit(threshold)).

    Tokens likelier than the threshold are learned and weigh nothing.
    """

    threshold: float = value(
        "tokens at least this probable have weight 0", 0.93, above=0.5, below=1
    )

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        log_probs = tokens.log_probs.detach()
        probs = log_probs.exp()
        # log(1 - p) keeps its digits near p = 1, and is -inf at p = 1, which relu turns to 0.
        logit = log_probs - (-log_probs.expm1()).log()
        return probs * (1 - logit / math.log(self.threshold / (1 - self.threshold))).clamp(min=0)


@dataclass
class Deft(Objective):
    """DEFT (arXiv 2602.11424): the gradient of (1 - p^a) / a is that of w = p^a.

    a is the sum over the vocabulary of the squared probabilities, without gradient: near 1 where
    the model is sure (as in DFT), near 0 where it is not (as in SFT).
    """

    outputs = ("log_sum_sq_probs",)

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        if tokens.log_sum_sq_probs is None:
            raise ValueError("Deft.weights needs the sum of the squared probabilities")
        return (tokens.log_sum_sq_probs.detach().exp() * tokens.log_probs.detach()).exp()


def _median(values: torch.Tensor, convention: str) -> torch.Tensor:
    return values.median() if convention == "lower" else values.quantile(0.5)
