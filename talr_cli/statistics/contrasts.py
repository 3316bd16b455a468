"""A contrast of scores with its error over items and over runs, one-sided tests of it, and
procedures that combine the p-values of several tests. Knows numbers only.
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

ONE_SIDED = LEVEL / 2  # on each side of a 95% interval


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of the scores of several settings.

    The error over items is normal. The error over runs is Student's t, as its variance is estimated
    from few runs. Their sum has the Behrens-Fisher distribution (Fisher 1935), whose tests keep
    their level with the few seeds of a study; Satterthwaite's degrees of freedom do not.

    Attributes:
        item_variance: The variance over test items (or optimizer steps), with these runs fixed.
        run_variance: The variance that other runs of the same settings would add; None if no
            setting has several runs.
        df: Degrees of freedom of `run_variance`.
        n: Number of items or steps.
    """

    estimate: float
    item_variance: float
    run_variance: float | None
    df: int
    n: int

    @property
    def standard_error(self) -> float:
        """Over items and runs; over items only if `run_variance` is not known."""
        return math.sqrt(self.item_variance + (self.run_variance or 0.0))

    def interval(self) -> tuple[float, float]:
        """The 95% interval, from the same variances as `standard_error`."""
        half = self._critical_error(ONE_SIDED)
        return self.estimate - half, self.estimate + half

    def p_greater(self, bound: float = 0.0) -> float:
        """p of the test that the true value is above `bound`; 1 if `run_variance` is None."""
        return 1.0 if self.run_variance is None else self._tail(self.estimate - bound)

    def p_less(self, bound: float = 0.0) -> float:
        """p of the test that the true value is below `bound`; 1 if `run_variance` is None."""
        return 1.0 if self.run_variance is None else self._tail(bound - self.estimate)

    def detectable(self) -> float:
        """The true difference that such a study finds at the 5% level with 80% power."""
        return self._critical_error(ONE_SIDED) + self._critical_error(1 - POWER)

    def text(self, sign: str = "+") -> str:
        """The estimate with its interval and n.

        Args:
            sign: `+` for a difference, empty for any other quantity.
        """
        low, high = self.interval()
        text = f"{self.estimate:{sign}z.3f} [{low:{sign}z.3f}, {high:{sign}z.3f}], n {self.n}"
        return text if self.run_variance is not None else f"{text}, of these checkpoints"

    def change_text(self) -> str:
        """The estimate with its interval as in tables, and `≈ 0` if the interval includes 0."""
        low, high = self.interval()
        return with_interval(self.estimate, low, high) + (" ≈ 0" if low <= 0 <= high else "")

    def _tail(self, error: float) -> float:
        """The probability of an error larger than `error`."""
        if self.standard_error == 0:
            return 0.0 if error > 0 else 1.0
        if not self.run_variance:
            return float(ndtr(-error / self.standard_error))
        ratios, weights = _variance_ratios(self.df)
        variances = self.item_variance + self.run_variance * ratios
        return float(weights @ ndtr(-error / variances**0.5))

    def _critical_error(self, probability: float) -> float:
        """The error that is exceeded with this probability: the inverse of `_tail`."""
        if self.standard_error == 0:
            return 0.0
        upper = self.standard_error
        while self._tail(upper) > probability:
            upper *= 2
        return float(brentq(lambda error: self._tail(error) - probability, 0.0, upper, rtol=1e-6))


@functools.cache
def _variance_ratios(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights to average over the ratio of a variance to its estimate, df / chi-squared.

    Gauss-Legendre quadrature in the fourth root of the chi-squared probability. Its nodes are dense
    where the ratio is large: small p-values have to be exact, as corrections multiply them.
    """
    nodes, weights = roots_legendre(96)
    nodes = (nodes + 1) / 2
    weights = weights / 2 * 4 * nodes**3
    return df / (2 * gammaincinv(df / 2, nodes**4)), weights


def intersection_union(p: Sequence[float]) -> float:
    """p of the test that all statements hold (Berger 1982)."""
    return max(p)


def bonferroni(p: Sequence[float]) -> float:
    """p of the test that at least one statement holds."""
    return min(1.0, len(p) * min(p))


def partial_conjunction(count: int, p: Sequence[float]) -> float:
    """p of the test that at least `count` statements hold (Benjamini and Heller 2008, Bonferroni).

    To count the statements that are significant one by one would not control the error of the
    count.
    """
    return min(1.0, (len(p) - count + 1) * sorted(p)[count - 1])


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for the family-wise error rate (Holm 1979)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = floor
    return adjusted
