"""The objectives: those of the study (arXiv 2509.20758) and later ones of the same family.

The module does not import torch at the top level, so that a config can be checked without it.
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

# Two passes over the same row may differ by this much in its mean loss (nats), through rounding.
ROUNDING = 1e-3


@dataclass
class Sft(Objective):
    """Standard supervised fine-tuning: every target token weighs 1."""

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        return tokens.log_probs.new_ones(tokens.log_probs.shape)


@dataclass
class Talr(Objective):
    """Token-adaptive loss reweighting: w = max(p^(1/tau), w_min), p the token's probability.

    tau is the median, over the sequences of a batch, of their mean loss. Which batch that is:

    tau_scope=step        all sequences of the optimizer step, however they are divided. Without
                          accumulation it is exact and free. With accumulation `tau_estimator`
                          decides: `lagged` takes the median of the previous step (free, except
                          for one more forward pass in the first step), `exact` runs a forward
                          pass over all micro-batches first (about a third more time per step).
    tau_scope=microbatch  the sequences of one forward pass: tau depends on the memory you have.
    tau=0.5               tau is fixed, and no batch is needed.

    `median` is the convention for an even number of sequences: the `lower` of the two middle values
    (as torch.median) or their `mean`. The paper specifies neither this nor a normalisation of the
    weights; `normalise` scales them to mean 1 over the targets of the optimizer step.

    Two controls of ours show which part of TALR has the effect. `probabilities=base` takes p and
    tau from the base model: a target's weight never changes, so there is no curriculum, and tau is
    known before the step. `shuffle_weights` permutes the weights of a step at random among its
    targets, anew in every step: their distribution stays, but they no longer fit their tokens.
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
        "with gradient accumulation: the median of the previous step (lagged), or of this step by "
        "another forward pass (exact)",
        "lagged",
        choices=("lagged", "exact"),
    )
    tau_min: float = value("lower bound of the temperature, as in the paper", 1e-6, above=0)
    median: str = value(
        "for an even number of losses: the lower of the two middle ones, or their mean; the "
        "paper does not say",
        "lower",
        choices=("lower", "mean"),
    )
    w_min: float = value(
        "lower bound of the token weights, as in the paper", 0.01, at_least=0, at_most=1
    )
    normalise: bool = value(
        "scale the token weights of a step to mean 1; the paper does not", False
    )
    probabilities: str = value(
        "the model whose probabilities determine the weights: the current one, as in the paper, "
        "or the base",
        "current",
        choices=("current", "base"),
    )
    shuffle_weights: bool = value(
        "a control experiment: permute the weights at random among the target tokens of a step",
        False,
    )

    def __post_init__(self) -> None:
        if self.tau is not None:
            self.tau_scope = "none"
        elif self.tau_scope == "none":
            raise UserError("objective.tau_scope=none needs a fixed temperature: objective.tau=0.5")
        self.sees_base = self.sees_only_base = self.probabilities == "base"
        self.looks_at_step = self.shuffle_weights or self.normalise
        if self.sees_only_base:
            self.tau_estimator = "exact"  # it costs nothing

    @property
    def name(self) -> str:
        """The name in tables."""
        return "talr" + "-base" * self.sees_base + "-shuffled" * self.shuffle_weights

    def sequence_losses(self, tokens: TargetTokens) -> torch.Tensor:
        return tokens.sequence_losses(self._log_probs(tokens))

    def _log_probs(self, tokens: TargetTokens) -> torch.Tensor:
        log_probs = tokens.base_log_probs if self.sees_base else tokens.log_probs
        assert log_probs is not None
        return log_probs.detach()

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        return _median(sequence_losses, self.median)

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        temperature = self.tau if tau is None else tau.to(tokens.log_probs)
        assert temperature is not None
        temperature = (
            max(temperature, self.tau_min)
            if isinstance(temperature, float)
            else temperature.clamp(min=self.tau_min)
        )
        return (self._log_probs(tokens) / temperature).exp().clamp(min=self.w_min)

    def step_weights(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        import torch

        if self.normalise:  # all weights may be 0 if w_min is
            weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
        if not self.shuffle_weights:
            return weights
        seed = random.Random(f"weights {step.seed} {step.number}").getrandbits(63)
        order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(seed))
        if weights.is_cuda:
            order = order.pin_memory()  # else the host would wait for the copy
        return weights[order.to(weights.device, non_blocking=True)]


@dataclass
class Flow(Objective):
    """FLOW (Sanyal et al. 2025, arXiv 2502.02797): rows that the base model finds easy weigh more.

    Row s has the weight exp(-L_s / tau). L_s is its mean loss under the base model; tau is the
    median of L over the training rows, or a fixed number. For an even number of rows the median is
    the mean of the two middle values, as in the published code.
    """

    tau: float | None = value(
        "fixed temperature; null: the median of the base model's losses on the training rows",
        None,
        above=0,
    )
    median: str = value(
        "for an even number of losses: the lower of the two middle ones, or their mean",
        "mean",
        choices=("lower", "mean"),
    )
    weighs_sequences: ClassVar[bool] = True

    def sequence_weights(self, base_losses: torch.Tensor) -> torch.Tensor:
        tau = float(_median(base_losses, self.median)) if self.tau is None else self.tau
        return (-base_losses / max(tau, 1e-6)).exp()

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        assert tokens.sequence_weights is not None
        return tokens.sequence_weights.to(tokens.log_probs)


@dataclass
class Stm(Sft):
    """Selective token masking (arXiv 2501.14315): targets that surprise the base are not trained.

    A token whose perplexity exp(-log p) under the base model is above `threshold` is not a target;
    the others weigh 1. The paper's threshold of 2.5 masks 20 to 24 % of its tokens. Its code
    compares with > and divides by the number of targets that are left; so does this.
    """

    threshold: float = value(
        "mask target tokens whose perplexity under the base model is above this", 2.5, above=1
    )
    masks_targets: ClassVar[bool] = True

    def target_mask(self, base_losses: torch.Tensor) -> torch.Tensor:
        return base_losses <= math.log(self.threshold)


@dataclass
class TailSft(Sft):
    """TailSFT (arXiv 2608.25756): every step leaves out the rows that are learned best by then.

    In a step of S rows, the round(S * fraction) rows whose mean loss has fallen most from that of
    the base model have weight 0; at least one row stays. The loss is the mean over the targets of
    the rows that stay. With `ramp` the fraction rises from 0 in the first step to `fraction` in the
    last.

    We could not read the paper itself. This follows its Algorithm 1 as implemented in TRL's example
    (examples/tail_sft_gsm8k), with the same defaults. The paper selects among the rows of one
    forward pass of all ranks. We select among those of the whole optimizer step, so that the
    selection does not depend on memory. Losses within ROUNDING of each other count as equal; of
    equal rows the first are left out.
    """

    fraction: float = value("share of a step's rows that are left out", 0.5, at_least=0, below=1)
    schedule: str = value(
        "ramp: from none in the first step to `fraction` in the last; static: `fraction` in "
        "every step",
        "ramp",
        choices=("ramp", "static"),
    )
    sees_base = True
    looks_at_step = True

    def step_weights(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        assert tokens.base_log_probs is not None
        gains = tokens.sequence_losses(tokens.base_log_probs) - tokens.sequence_losses()
        fraction = self.fraction
        if self.schedule == "ramp":
            fraction *= step.number / max(step.total - 1, 1)
        count = min(round(len(gains) * fraction), max(len(gains) - 1, 0))
        learned = (-gains / ROUNDING).round().argsort(stable=True)[:count]
        stays = weights.new_ones(len(gains)).index_fill(0, learned, 0)[tokens.sequence]
        return stays * (len(stays) / stays.sum())  # rescaled to the mean over what stays


@dataclass
class Dft(Objective):
    """Dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629): w = p."""

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        return tokens.log_probs.detach().exp()


@dataclass
class Eaft(Objective):
    """Entropy-adaptive fine-tuning (arXiv 2601.02151): w = (H / scale)^exponent.

    H is the entropy of the prediction, restricted to its `top_k` likeliest tokens and renormalised.
    `top_k=null` takes the whole vocabulary, which is a different objective and needs a `scale`. The
    default scale is ln(top_k), the largest possible H; the public code writes 3.0 for ln(20).
    """

    top_k: int | None = value(
        "compute the entropy over this many of the likeliest tokens; null: the whole vocabulary",
        20,
        at_least=2,
    )
    scale: float | None = value(
        "divide the entropy (nats) by this; null: ln(top_k), the largest possible entropy",
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
        assert entropy is not None
        assert self.scale is not None
        # Rounding may make the entropy of a confident prediction slightly negative.
        return (entropy.detach().clamp(min=0) / self.scale) ** self.exponent


@dataclass
class InfoSft(Objective):
    """InfoSFT (arXiv 2605.14967): w = p * relu(1 - logit(p) / logit(threshold)).

    Tokens at least as likely as the threshold count as learned and have weight 0.
    """

    threshold: float = value(
        "tokens at least this probable have weight 0", 0.93, above=0.5, below=1
    )

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        log_probs = tokens.log_probs.detach()
        probs = log_probs.exp()
        # expm1 keeps log(1 - p) precise near p = 1. At p = 1 it is -inf, and relu makes w = 0.
        logit = log_probs - (-log_probs.expm1()).log()
        return probs * (1 - logit / math.log(self.threshold / (1 - self.threshold))).clamp(min=0)


@dataclass
class Deft(Objective):
    """DEFT (arXiv 2602.11424): the loss (1 - p^a) / a, whose gradient is that of w = p^a.

    a is the sum over the vocabulary of the squared probabilities, without gradient. It is near 1
    where the model is confident (w = p, as in DFT) and near 0 where it is not (w = 1, as in SFT).
    """

    outputs = ("log_sum_sq_probs",)

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        assert tokens.log_sum_sq_probs is not None
        return (tokens.log_sum_sq_probs.detach().exp() * tokens.log_probs.detach()).exp()


def _median(values: torch.Tensor, convention: str) -> torch.Tensor:
    """The median; of an even number of values the "lower" middle one, or the "mean" of the two."""
    return values.median() if convention == "lower" else values.quantile(0.5)
