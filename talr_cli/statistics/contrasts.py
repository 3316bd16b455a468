"""A difference of scores whose error comes from two samples, of items and of runs; tests of it.

Tests are one-sided: a p for either side. `all_hold`, `any_holds`, `at_least` and `holm` combine the
p-values of several. Knows numbers only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, roots_legendre

from talr_cli.statistics.paired import LEVEL, with_interval
from talr_cli.statistics.power import POWER

SIDE = LEVEL / 2  # of each side of a 95% interval


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of the scores of several settings.

    Its error is the sum of a normal one over items and of a Student's t one over runs, whose
    variance is known from few runs: the Behrens-Fisher distribution (Fisher 1935). It keeps its
    level with the few seeds of a study; Satterthwaite's degrees of freedom do not.

    Attributes:
        items: The variance over test items (or optimizer steps), for these very runs.
        runs: The variance that other runs of the same settings would add; None where no setting
            has several runs.
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
        """Standard error, over items and runs; over items alone where `runs` is not known."""
        return math.sqrt(self.items + (self.runs or 0.0))

    def interval(self) -> tuple[float, float]:
        """The 95% interval, by the same errors as `error`."""
        half = self._quantile(SIDE)
        return self.estimate - half, self.estimate + half

    def not_above(self, than: float = 0.0) -> float:
        """p of the hypothesis that the true value is not above `than`; 1 where `runs` is None."""
        return 1.0 if self.runs is None else self._beyond(self.estimate - than)

    def not_below(self, than: float = 0.0) -> float:
        """p of the hypothesis that the true value is not below `than`; 1 where `runs` is None."""
        return 1.0 if self.runs is None else self._beyond(than - self.estimate)

    def smallest(self) -> float:
        """The true difference that is found, at the 5% level, in 80 of 100 such studies."""
        return self._quantile(SIDE) + self._quantile(1 - POWER)

    def text(self, sign: str = "+") -> str:
        """The estimate with its interval and n.

        Args:
            sign: `+`, or empty for a quantity that is no difference.
        """
        low, high = self.interval()
        told = f"{self.estimate:{sign}z.3f} [{low:{sign}z.3f}, {high:{sign}z.3f}], n {self.n}"
        return told if self.runs is not None else f"{told}, of these checkpoints"

    def change_text(self) -> str:
        """The estimate with its interval as tables have changes: `≈ 0` where 0 is within it."""
        low, high = self.interval()
        return with_interval(self.estimate, low, high) + (" ≈ 0" if low <= 0 <= high else "")

    def _beyond(self, lead: float) -> float:
        """Probability of an error larger than `lead`."""
        if self.error == 0:
            return 0.0 if lead > 0 else 1.0
        if not self.runs:
            return float(ndtr(-lead / self.error))
        factors, weights = _factors(self.df)
        return float(weights @ ndtr(-lead / (self.items + self.runs * factors) ** 0.5))

    def _quantile(self, beyond: float) -> float:
        """The error that is exceeded with this probability."""
        if self.error == 0:
            return 0.0
        far = self.error
        while self._beyond(far) > beyond:
            far *= 2
        return float(brentq(lambda lead: self._beyond(lead) - beyond, 0.0, far, rtol=1e-6))


@functools.cache
def _factors(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights to average over the ratio of a variance to its estimate, df / chi-squared.

    Gauss-Legendre in the fourth root of the chi-squared probability: nodes are dense where the
    ratio is large, as p-values far out in the tail are multiplied by the number of tests.
    """
    nodes, weights = roots_legendre(96)
    nodes = (nodes + 1) / 2
    share = nodes**4  # of samples whose estimate is smaller
    weights = weights / 2 * 4 * nodes**3
    return df / (2 * gammaincinv(df / 2, share)), weights


def all_hold(p: Sequence[float]) -> float:
    """p of the hypothesis that not all statements hold (intersection-union, Berger 1982)."""
    return max(p)


def any_holds(p: Sequence[float]) -> float:
    """p of the hypothesis that no statement holds (Bonferroni)."""
    return min(1.0, len(p) * min(p))


def at_least(count: int, p: Sequence[float]) -> float:
    """p of the hypothesis that fewer than `count` statements hold.

    The partial conjunction of Benjamini and Heller (2008) by Bonferroni. A count of the statements
    that are proven one by one would have no error of its own.
    """
    if count > len(p):
        return 1.0
    return min(1.0, (len(p) - count + 1) * sorted(p)[count - 1])


def holm(p: Sequence[float]) -> list[float]:
    """Each p adjusted so that the chance of any false rejection keeps to the level (Holm 1979)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = floor
    return adjusted
