"""What so many test items can show, said before anything is trained: of two checkpoints.

Knows the scores of a base model and how many items they are of. How far runs lie apart comes on top
where methods are compared; scripts/simulate_study.py has both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from talr_cli.statistics.paired import LEVEL
from talr_cli.statistics.pairs import PARTS, Results

POWER = 0.8
AGREEMENT = 0.5  # correlation of the answers of a model and its tuned one, as in docs/cpu-study.md
_QUANTILES = 1.959964 + 0.841621  # two-sided 5%, and POWER
_MANY = 5_000  # items from which on the exact test and the normal one agree


def smallest_difference(
    tasks: Sequence[tuple[float, int]], agreement: float = AGREEMENT
) -> float | None:
    """The smallest change of a mean of accuracies that is seen at the 5% level with 80% power.

    Paired: both answer the same items (Connor 1987, with the discordant share that two correlated
    answers have). The same change in each task, towards the middle, where the variance is larger.
    One task is seen where McNemar's exact test sees it, as `talr compare` judges it, the mean of
    several by its normal error.

    Args:
        tasks: Score before, between 0 and 1, and number of items of each task.

    Returns:
        None where no change is large enough.
    """
    from scipy.optimize import brentq

    if len(tasks) == 1 and tasks[0][1] <= _MANY:
        return _by_exact_test(*tasks[0], agreement)

    def missing(change: float) -> float:
        """By how much a change is smaller than what is seen at its variance."""
        variances = [_variance(score, change, agreement) / n for score, n in tasks]
        return _QUANTILES * math.sqrt(sum(variances)) / len(tasks) - change

    # Not from 0: there a score of 0 or 1 has no noise.
    least = 1 / max(n for _, n in tasks)
    most = max(max(score, 1 - score) for score, _ in tasks)
    if missing(most) >= 0:
        return None
    return least if missing(least) <= 0 else float(brentq(missing, least, most))


def _by_exact_test(score: float, n: int, agreement: float) -> float | None:
    """As `smallest_difference`, of one task."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import binom

    flipped = np.arange(n + 1)
    # Of so many items that flip, how many may go the rarer way for the test to be sure; -1: none.
    rarer = binom.ppf(LEVEL / 2, flipped, 0.5) - 1

    def missing(change: float) -> float:
        """What the power lacks."""
        share = min(1.0, _variance(score, change, agreement) + change**2)  # of the items that flip
        seen = binom.cdf(rarer, flipped, max(0.0, 1 - change / share) / 2)
        return POWER - float(binom.pmf(flipped, n, share) @ seen)

    most = max(score, 1 - score)
    return None if missing(most) > 0 else float(brentq(missing, 1e-6, most))


def _variance(score: float, change: float, agreement: float) -> float:
    """Of the difference of two answers to one item, of which the second is right more often."""
    after = min(1.0, score + change) if score <= 0.5 else max(0.0, score - change)
    before_variance, after_variance = (one * (1 - one) for one in (score, after))
    shared = agreement * math.sqrt(before_variance * after_variance)
    # As many items change as the mean does, at the least: all of them one way.
    least = change * (1 - change)
    return max(before_variance + after_variance - 2 * shared, least)


def smallest_of(section: dict[str, Any] | None) -> float | None:
    """As `smallest_difference`, of a part of results.json; None where it is no accuracy too."""
    if not section:
        return None
    tasks = list(section.get("tasks", {}).values()) or [section]
    scores = [(one["score"], one["n"]) for one in tasks]
    if not all(score is not None and 0 <= score <= 1 and n for score, n in scores):
        return None
    return smallest_difference(scores)


def power_text(base: Results) -> str:
    """One sentence; empty where nothing is known."""
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
