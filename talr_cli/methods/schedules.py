"""How the learning rate goes from step to step, as shares of `lr`.

A schedule knows the number of a step and, where it asks for it, the loss of that step; it knows
neither the optimizer nor the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from talr_cli.fields import value


class Schedule:
    """The learning rate of every step. Subclasses are dataclasses with the schedule's values."""

    # Whether `see` is to be called with the loss of each step before its rate is asked for.
    follows_loss: ClassVar[bool] = False

    def share(self, step: int, steps: int) -> float:
        """The share of `lr` at `step` (from 0) of `steps`."""
        raise NotImplementedError

    def see(self, loss: float) -> None:
        """The loss of the step that is about to be made.

        It is what the objective minimises, `sum(w_i * l_i) / N` over the whole step, the same on
        all ranks; a regulariser's penalty is not in it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, float]:
        """What it remembers of the losses, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on with what `state` gave."""


@dataclass
class _WarmedUp(Schedule):
    """The rate rises in even steps from 0; what follows is the subclass's."""

    warmup_share: float = value(
        "share of the steps in which the learning rate rises from 0", 0.03, at_least=0, at_most=1
    )

    def share(self, step: int, steps: int) -> float:
        warmup = int(self.warmup_share * steps)
        if step < warmup:
            return step / warmup
        return self._fallen(step - warmup, max(1, steps - warmup))

    def _fallen(self, step: int, steps: int) -> float:
        """The share at a step after the warm-up."""
        raise NotImplementedError


class Cosine(_WarmedUp):
    """Half a cosine, from 1 to 0."""

    def _fallen(self, step: int, steps: int) -> float:
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (step / steps))))


class Linear(_WarmedUp):
    """A straight line from 1 to 0."""

    def _fallen(self, step: int, steps: int) -> float:
        return max(0.0, (steps - step) / steps)


class Constant(_WarmedUp):
    """1 until the end."""

    def _fallen(self, step: int, steps: int) -> float:
        return 1.0


@dataclass
class Finch(Schedule):
    """min(kappa / sqrt(m + eps), eta_max), m the running mean of the losses (arXiv 2605.20005).

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
        if self._mean is None:  # no step has been seen, and none is made at this rate
            return 0.0
        # Where all is learned, rounding may leave a loss just below zero.
        mean = max(self._mean, 0.0)
        return min(self.rate_at_one_nat / math.sqrt(mean + self.eps), 1.0)

    def see(self, loss: float) -> None:
        before = loss if self._mean is None else self._mean
        self._mean = self.decay * before + (1 - self.decay) * loss

    def state(self) -> dict[str, float]:
        return {} if self._mean is None else {"mean_loss": self._mean}

    def restore(self, state: Mapping[str, float]) -> None:
        self._mean = state.get("mean_loss")
