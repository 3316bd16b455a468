"""An estimate whose error comes from two samples, of items and of runs; tests of it.

A test here is one-sided and has a p for either side. Several tests are combined by `all_hold`,
`any_holds`, `at_least` and `holm`. Knows numbers only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 0.025  # the level of each side of a 95% interval
POWER = 0.8


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of the scores of several settings.

    Its error is the sum of a normal error over items and of one over runs, whose variance is itself
    an estimate: the Behrens-Fisher distribution. It keeps its level with the few seeds of a study,
    which Satterthwaite's degrees of freedom do not.

    Attributes:
        items: The variance over test items (or optimizer steps), for these very runs.
        runs: The variance that other runs of the same settings add; None where it is not known.
        df: Degrees of freedom of `runs`.
        n: Items or steps.
    """

    estimate: float
    items: float
    runs: float | None
    df: int
    n: int

    @property
    def error(self) -> float:
        """Standard error; where `runs` is not known, that of these very checkpoints."""
        return math.sqrt(self.items + (self.runs or 0.0))

    def interval(self) -> tuple[float, float]:
        """95%, as `error`."""
        half = self._quantile(SIDE)
        return self.estimate - half, self.estimate + half

    def not_above(self, than: float = 0.0) -> float:
        """One-sided p of the estimate not being above `than`; 1 where one seed cannot tell."""
        return 1.0 if self.runs is None else self._beyond(self.estimate - than)

    def not_below(self, than: float = 0.0) -> float:
        return 1.0 if self.runs is None else self._beyond(than - self.estimate)

    def smallest(self) -> float:
        """The difference that such runs and items show at the 5% level in 80 of 100 studies."""
        return self._quantile(SIDE) + self._quantile(1 - POWER)

    def text(self, sign: str = "+") -> str:
        """`sign` as in a format: empty for a quantity that is no difference."""
        low, high = self.interval()
        told = f"{self.estimate:{sign}z.3f} [{low:{sign}z.3f}, {high:{sign}z.3f}], n {self.n}"
        return told if self.runs is not None else f"{told}, of these checkpoints"

    def _beyond(self, lead: float) -> float:
        """Probability of an error larger than `lead`."""
        from scipy.special import ndtr

        if self.error == 0:
            return 0.0 if lead > 0 else 1.0
        if not self.runs:
            return float(ndtr(-lead / self.error))
        factors, weights = _factors(self.df)
        return float(weights @ ndtr(-lead / (self.items + self.runs * factors) ** 0.5))

    def _quantile(self, beyond: float) -> float:
        """The error that is exceeded with this probability."""
        from scipy.optimize import brentq

        if self.error == 0:
            return 0.0
        far = self.error
        while self._beyond(far) > beyond:
            far *= 2
        return float(brentq(lambda lead: self._beyond(lead) - beyond, 0.0, far, rtol=1e-6))


@functools.cache
def _factors(df: int) -> tuple[np.ndarray, np.ndarray]:
    """A quadrature over (true variance / its estimate with `df`): nodes and their weights.

    Nodes are dense where the ratio is large, since tails have to be right where p is multiplied by
    the number of tests.
    """
    from scipy.special import gammaincinv, roots_legendre

    nodes, weights = roots_legendre(96)
    nodes = (nodes + 1) / 2
    share = nodes**4  # of all samples that have a smaller sample variance
    weights = weights / 2 * 4 * nodes**3
    return df / (2 * gammaincinv(df / 2, share)), weights


def all_hold(p: Sequence[float]) -> float:
    """p of not all statements holding (intersection-union: each at the full level)."""
    return max(p)


def any_holds(p: Sequence[float]) -> float:
    """p of no statement holding; Bonferroni pays for picking the clearest of several."""
    return min(1.0, len(p) * min(p))


def at_least(count: int, p: Sequence[float]) -> float:
    """p of fewer than `count` statements holding (partial conjunction, Benjamini and Heller 2008).

    It is what lets counts be compared: a count of proven statements alone has no error.
    """
    if count > len(p):
        return 1.0
    return min(1.0, (len(p) - count + 1) * sorted(p)[count - 1])


def holm(p: Sequence[float]) -> list[float]:
    """Each p, adjusted so that the chance of any false rejection keeps to the level."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = floor
    return adjusted
