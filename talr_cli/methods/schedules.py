"""Learning-rate schedules: the share of `lr` at which each optimizer step is made.

A schedule knows the number of a step and, if it asks for it, the loss of that step. It knows
neither the optimizer nor the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from talr_cli.fields import value


class Schedule:
    """The base class. Subclasses are dataclasses with the schedule's config values."""

    # Whether `observe` is called with the loss of each step, before `share` is.
    follows_loss: ClassVar[bool] = False

    def share(self, step: int, steps: int) -> float:
        """The share of `lr` at `step` (from 0) of `steps`."""
        raise NotImplementedError

    def observe(self, loss: float) -> None:
        """Take in the loss of the step that is about to be made.

        It is what the objective minimises, `sum(w_i * l_i) / N` over the whole step, and the same
        on all ranks. A regulariser's penalty is not included.
        """
        raise NotImplementedError

    def state(self) -> dict[str, float]:
        """What it remembers of the losses, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from what `state` returned."""


@dataclass
class _WithWarmup(Schedule):
    """A linear warm-up from 0, then what the subclass says."""

    warmup_share: float = value(
        "share of the steps in which the learning rate rises from 0", 0.03, at_least=0, at_most=1
    )

    def share(self, step: int, steps: int) -> float:
        warmup = int(self.warmup_share * steps)
        if step < warmup:
            return step / warmup
        return self._after_warmup(step - warmup, steps - warmup)

    def _after_warmup(self, step: int, steps: int) -> float:
        """The share at `step` (from 0) of the `steps` after the warm-up."""
        raise NotImplementedError


class Cosine(_WithWarmup):
    """Half a cosine, from 1 to 0."""

    def _after_warmup(self, step: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (step / steps)))


class Linear(_WithWarmup):
    """A straight line from 1 to 0."""

    def _after_warmup(self, step: int, steps: int) -> float:
        return (steps - step) / steps


class Constant(_WithWarmup):
    """1 until the end."""

    def _after_warmup(self, step: int, steps: int) -> float:
        return 1.0


@dataclass
class Finch(Schedule):
    """FINCH (arXiv 2605.20005): min(kappa / sqrt(m + eps), eta_max), m the running mean loss.

    `lr` is eta_max, and kappa is `rate_at_one_nat * lr`.
    """

    rate_at_one_nat: float = value(
        "learning rate at a mean loss of one nat per token, as a share of lr; times lr it is "
        "the kappa of the formula",
        0.2,
        above=0,
    )
    decay: float = value(
        "decay of the running mean of the losses, per step", 0.9, at_least=0, below=1
    )
    eps: float = value("added to the mean loss under the square root", 1e-8, above=0)
    follows_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._mean: float | None = None

    def share(self, step: int, steps: int) -> float:
        if self._mean is None:  # before the first step: no step is made at this rate
            return 0.0
        # When everything is learned, rounding may make a loss slightly negative.
        mean = max(self._mean, 0.0)
        return min(self.rate_at_one_nat / math.sqrt(mean + self.eps), 1.0)

    def observe(self, loss: float) -> None:
        before = loss if self._mean is None else self._mean
        self._mean = self.decay * before + (1 - self.decay) * loss

    def state(self) -> dict[str, float]:
        return {} if self._mean is None else {"mean_loss": self._mean}

    def restore(self, state: Mapping[str, float]) -> None:
        self._mean = state.get("mean_loss")
