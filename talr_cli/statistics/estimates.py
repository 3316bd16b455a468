"""An estimate with its standard error: a score, a difference of scores, or a mean over seeds.

Knows a section of results.json; does not know which runs may be compared.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from talr_cli.statistics.paired import LEVEL


@dataclass(frozen=True)
class Estimate:
    """A score or a change of it, and its standard error (None for a single item).

    `p` and `is_distinguishable` are those of a change: its two-sided p-value, and whether it is
    distinguishable from noise at the 5% level.
    """

    score: float
    stderr: float | None
    p: float | None = None
    is_distinguishable: bool | None = None

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference of two independent estimates, with the p-value of a z-test."""
        change = self.score - other.score
        if self.stderr is None or other.stderr is None:
            return Estimate(change, None)
        stderr = math.hypot(self.stderr, other.stderr)
        if stderr == 0:
            return Estimate(change, stderr)
        p = math.erfc(abs(change) / stderr / math.sqrt(2))
        return Estimate(change, stderr, p, p < LEVEL)


def estimate_of(section: dict[str, Any] | None) -> Estimate | None:
    """The score of a section of results.json; None if there is none, or if it was not finite."""
    if section is None or section["score"] is None:
        return None
    return Estimate(section["score"], section["stderr"])


def mean_and_deviation(values: Sequence[float]) -> Estimate | None:
    """The mean, with the standard deviation (n - 1) in place of the error; None for one value."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), deviation)
