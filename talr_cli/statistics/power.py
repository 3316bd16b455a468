"""The smallest difference between two checkpoints that the test items can detect.

It follows from the scores of the base model's items, so it is known before any training.
A comparison of methods also has the variance between runs: see scripts/simulate_study.py.
"""

import math
from collections.abc import Sequence
from typing import Any

from talr_cli.statistics.paired import LEVEL
from talr_cli.statistics.pairs import PARTS, Results

POWER = 0.8
CORRELATION = 0.5  # of the answers of a base model and its fine-tuned one: docs/cpu-study.md
_QUANTILES = 1.959964 + 0.841621  # normal quantiles of a two-sided 5% level and of POWER
_MANY = 5_000  # from this number of items on, the exact test and the normal one agree


def detectable_difference(
    tasks: Sequence[tuple[float, int]], variance_ratios: Sequence[float] | None = None
) -> float | None:
    """The smallest change of a mean of scores that is detected at the 5% level with 80% power.

    Both models answer the same items; how many answers differ follows from CORRELATION (Connor
    1987). All tasks are assumed to change equally, towards 0.5, where the variance is larger. A
    single accuracy is tested by McNemar's exact test, as in `talr compare`, partial credit and the
    mean of several tasks by a z-test.

    Args:
        tasks: For each task the score before, between 0 and 1, and the number of items.
        variance_ratios: For each task the variance of its items divided by p (1 - p), that of
            answers right or wrong. It is assumed to stay the same. None: 1 for each.

    Returns:
        None if no possible change is large enough.
    """
    from scipy.optimize import brentq

    ratios = [1.0] * len(tasks) if variance_ratios is None else variance_ratios
    are_accuracies = min(ratios) == 1
    if len(tasks) == 1 and tasks[0][1] <= _MANY and are_accuracies:
        return _by_exact_test(*tasks[0])
    sizes = [n for _, n in tasks]
    # As in `Difference.is_distinguishable`: every task needs two items, and with too few items all
    # random signs are often equal.
    if min(sizes) < 2 or 0.5 ** (sum(sizes) - 1) >= LEVEL:
        return None

    def shortfall(change: float) -> float:
        """How much a change lacks to be detected, given its variance."""
        variances = [
            ratio * _variance(score, change) / n
            for (score, n), ratio in zip(tasks, ratios, strict=True)
        ]
        return _QUANTILES * math.sqrt(sum(variances)) / len(tasks) - change

    # Not from 0, as a score of 0 or 1 has no variance there.
    low = 1 / max(sizes) if are_accuracies else 1e-6
    high = max(max(score, 1 - score) for score, _ in tasks)
    if shortfall(high) >= 0:
        return None
    return low if shortfall(low) <= 0 else float(brentq(shortfall, low, high))


def _by_exact_test(score: float, n: int) -> float | None:
    """As `detectable_difference`, for one task of n items and McNemar's exact test."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import binom

    flipped = np.arange(n + 1)
    # For each number of flipped items: how many may flip in the rarer direction at most, so that
    # the test is significant; -1 if it never is.
    rarer = binom.ppf(LEVEL / 2, flipped, 0.5) - 1

    def shortfall(change: float) -> float:
        """How much the power at this change lacks to POWER."""
        share = min(1.0, _variance(score, change) + change**2)  # of the items that flip
        detected = binom.cdf(rarer, flipped, max(0.0, 1 - change / share) / 2)
        return POWER - float(binom.pmf(flipped, n, share) @ detected)

    high = max(score, 1 - score)
    return None if shortfall(high) > 0 else float(brentq(shortfall, 1e-6, high))


def _variance(score: float, change: float) -> float:
    """Variance of the difference of two answers to an item, if the mean changes by `change`."""
    after = min(1.0, score + change) if score <= 0.5 else max(0.0, score - change)
    before_variance, after_variance = (one * (1 - one) for one in (score, after))
    covariance = CORRELATION * math.sqrt(before_variance * after_variance)
    # The lower bound: no more items flip than the change needs, all in the same direction.
    return max(before_variance + after_variance - 2 * covariance, change * (1 - change))


def detectable_difference_of(section: dict[str, Any] | None) -> float | None:
    """As `detectable_difference`, for a section of results.json; None if a score exceeds 0 to 1."""
    if not section:
        return None
    tasks = list(section.get("tasks", {}).values()) or [section]
    scores = [(one["score"], one["n"]) for one in tasks]
    if not all(score is not None and 0 <= score <= 1 and n for score, n in scores):
        return None
    return detectable_difference(scores, [*map(_variance_ratio, tasks)])


def _variance_ratio(section: dict[str, Any]) -> float:
    """The variance of the items divided by that of answers right or wrong; 1 if not known.

    Partial scores that are all equal do not tell how far those of another model lie apart.
    """
    import numpy as np

    items = [*(section.get("items") or {}).values()]
    binary = section["score"] * (1 - section["score"])
    if binary == 0 or len({*items}) < 2 or {*items} <= {0, 1}:
        return 1.0
    return min(1.0, float(np.var(items)) / binary)


def power_text(base: Results) -> str:
    """The smallest detectable changes of both scores in a sentence; empty if none is known."""
    sizes = {part: detectable_difference_of(base[part]) for part in PARTS}
    known = [
        f"{size:.3f} of the {part} score ({base[part]['n']} items)"
        for part, size in sizes.items()
        if size is not None
    ]
    if not known:
        return ""
    return (
        "the smallest change from the base model's score that these items can detect: "
        f"{', '.join(known)} (5% level, {POWER:.0%} power, paired items, correlation of answers "
        f"{CORRELATION:g})"
    )
