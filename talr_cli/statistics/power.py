"""The smallest difference between two checkpoints that the test items can show.

Knows the scores of a base model's items: it can be told before any training. The
deviation between runs comes on top where methods are compared: scripts/simulate_study.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from talr_cli.statistics.paired import LEVEL
from talr_cli.statistics.pairs import PARTS, Results

POWER = 0.8
AGREEMENT = 0.5  # correlation of a base's and its tuned model's answers, see docs/cpu-study.md
_QUANTILES = 1.959964 + 0.841621  # two-sided 5%, and POWER
_MANY = 5_000  # items from which on the exact test and the normal one agree


def smallest_difference(
    tasks: Sequence[tuple[float, int]], spreads: Sequence[float] | None = None
) -> float | None:
    """The smallest change of a mean of scores that is found at the 5% level with 80% power.

    Both models answer the same items; how many answers differ follows from their correlation,
    AGREEMENT (Connor 1987). Every task is taken to change by as much, towards 0.5, where the
    variance is larger. A single accuracy is tested by McNemar's exact test, as `talr compare` does,
    partial credit and the mean of several tasks by a z-test.

    Args:
        tasks: Score before, between 0 and 1, and number of items of each task.
        spreads: Of each task the variance of its items, as a share of p (1 - p), that of answers
            right or wrong, to which it is taken to keep; None: 1 of each.

    Returns:
        None where no change is large enough.
    """
    from scipy.optimize import brentq

    spreads = [1.0] * len(tasks) if spreads is None else spreads
    are_accuracies = min(spreads) == 1
    if len(tasks) == 1 and tasks[0][1] <= _MANY and are_accuracies:
        return _by_exact_test(*tasks[0])
    sizes = [n for _, n in tasks]
    # As `Difference.is_distinguishable`: every task needs two items, and too few random signs are
    # all alike by chance.
    if min(sizes) < 2 or 0.5 ** (sum(sizes) - 1) >= LEVEL:
        return None

    def missing(change: float) -> float:
        """By how much a change falls short of what is found at its variance."""
        variances = [
            spread * _variance(score, change) / n
            for (score, n), spread in zip(tasks, spreads, strict=True)
        ]
        return _QUANTILES * math.sqrt(sum(variances)) / len(tasks) - change

    # Not from 0: there a score of 0 or 1 has no noise.
    least = 1 / max(sizes) if are_accuracies else 1e-6
    most = max(max(score, 1 - score) for score, _ in tasks)
    if missing(most) >= 0:
        return None
    return least if missing(least) <= 0 else float(brentq(missing, least, most))


def _by_exact_test(score: float, n: int) -> float | None:
    """As `smallest_difference`, for one task of n items."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import binom

    flipped = np.arange(n + 1)
    # For each number of items that flip the most that may flip the rarer way in a significant
    # test; -1 where no split is significant.
    rarer = binom.ppf(LEVEL / 2, flipped, 0.5) - 1

    def missing(change: float) -> float:
        """By how much the power at this change falls short of POWER."""
        share = min(1.0, _variance(score, change) + change**2)  # that items flip
        seen = binom.cdf(rarer, flipped, max(0.0, 1 - change / share) / 2)
        return POWER - float(binom.pmf(flipped, n, share) @ seen)

    most = max(score, 1 - score)
    return None if missing(most) > 0 else float(brentq(missing, 1e-6, most))


def _variance(score: float, change: float) -> float:
    """Variance of the difference of two answers to an item, where the mean moves by `change`."""
    after = min(1.0, score + change) if score <= 0.5 else max(0.0, score - change)
    before_variance, after_variance = (one * (1 - one) for one in (score, after))
    shared = AGREEMENT * math.sqrt(before_variance * after_variance)
    # The variance where no more items flip than the change needs, all of them one way.
    least = change * (1 - change)
    return max(before_variance + after_variance - 2 * shared, least)


def smallest_of(section: dict[str, Any] | None) -> float | None:
    """As `smallest_difference`, of a section of results.json; None also of scores beyond 0 to 1."""
    if not section:
        return None
    tasks = list(section.get("tasks", {}).values()) or [section]
    scores = [(one["score"], one["n"]) for one in tasks]
    if not all(score is not None and 0 <= score <= 1 and n for score, n in scores):
        return None
    return smallest_difference(scores, [*map(_spread, tasks)])


def _spread(section: dict[str, Any]) -> float:
    """The variance of the items as a share of that of answers right or wrong; 1 if not known."""
    import numpy as np

    items = [*(section["items"] or {}).values()] if "items" in section else []
    most = section["score"] * (1 - section["score"])
    if most == 0 or {*items} <= {0, 1}:
        return 1.0
    return min(1.0, float(np.var(items)) / most)


def power_text(base: Results) -> str:
    """The smallest changes of both scores in a sentence; empty where none is known."""
    told = []
    for part in PARTS:
        size = smallest_of(base[part])
        if size is not None:
            told.append(f"{size:.3f} of the {part} score ({base[part]['n']} items)")
    if not told:
        return ""
    return (
        f"the smallest change from the base's score that so many items show: {', '.join(told)} "
        f"(5% level, {POWER:.0%} of studies, the same items, answers correlated by {AGREEMENT:g})"
    )
