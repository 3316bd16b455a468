"""Two runs on the same items: the difference of their scores, and whether it is more than noise.

Answers to one item agree more often than answers to two, so a paired difference is surer than
that of two independent scores. Knows results only. The items are taken as a sample of all that
could have been asked, and the two models as they are: another seed is another model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talr_cli.report.pairs import Results, section_of, unlike

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
LEVEL = 0.05


class NotPaired(Exception):  # noqa: N818
    """Why two scores cannot be compared item by item."""


@dataclass(frozen=True)
class Difference:
    """What the second of two runs scored more than the first.

    Attributes:
        difference: Of the scores.
        low, high: The 95% interval: percentiles of the bootstrap over items.
        p: Two-sided, of the same bootstrap: twice the share of resamples on the rarer side of 0.
        n, won, lost: Items, and of them those that the second scored higher and lower on.
        stderr: Of the difference; None where a task has a single item.
        mcnemar: p of McNemar's exact test; None unless this is one accuracy.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    won: int
    lost: int
    stderr: float | None
    mcnemar: float | None

    @property
    def is_distinguishable(self) -> bool:
        """Whether it is more than noise at the 5% level, by every test that was made.

        With few discordant items the bootstrap finds too much, and the exact test corrects it.
        """
        return self.p < LEVEL and (self.mcnemar is None or self.mcnemar < LEVEL)


def compare_part(before: Results, after: Results, part: str) -> Difference | None:
    """The change of one part's score from `before` to `after`; None where it cannot be paired.

    Args:
        part: `domain`, `general` (the mean of the tasks) or `general/TASK`.
    """
    try:
        return difference(before, after, part)
    except NotPaired:
        return None


def difference(before: Results, after: Results, part: str) -> Difference:
    """As `compare_part`.

    Raises:
        NotPaired: The runs were not measured alike, or their items are unknown or not the same.
    """
    reason = unlike(before, after, part)
    if reason is not None:
        raise NotPaired(reason)
    parts = [part]
    if part == "general":
        parts = [f"general/{task}" for task in sorted(before["general"].get("tasks", {}))]
    return paired_difference([_scores(before, after, one) for one in parts])


def _scores(before: Results, after: Results, part: str) -> tuple[list[float], list[float]]:
    """Both runs' scores of the same items, in one order."""
    both = [section.get("items") for one in (before, after) if (section := section_of(one, part))]
    if len(both) < 2 or None in both:
        raise NotPaired(f"no scores of single items of {part}: score both again with `talr eval`")
    first, second = both
    if first.keys() != second.keys():
        shared = len(first.keys() & second.keys())
        raise NotPaired(
            f"{part} was scored on other items: {len(first)} and {len(second)}, {shared} in common"
        )
    return [first[key] for key in first], [second[key] for key in first]


def paired_difference(tasks: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Difference:
    """The plain mean over tasks of the mean difference of their items.

    Items are resampled within each task (Efron and Tibshirani 1993, chapters 13 and 15), the same
    draws for the same numbers whatever the order of the items.

    Args:
        tasks: For each task the scores of its items before, and of the same items after.
    """
    import numpy as np

    if not tasks:
        raise NotPaired("no task was scored")
    changes = [np.subtract(after, before) for before, after in tasks]
    generator = np.random.default_rng(0)
    means = np.mean([_resampled_means(change, generator) for change in changes], axis=0)
    means = means.round(12)  # tasks that cancel out leave rounding errors, not 0
    rarer = min((means <= 0).sum(), (means >= 0).sum())
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    won = sum(int((change > 0).sum()) for change in changes)
    lost = sum(int((change < 0).sum()) for change in changes)
    sizes = [len(change) for change in changes]
    variances = [
        change.var(ddof=1) / size for change, size in zip(changes, sizes, strict=True) if size > 1
    ]
    is_accuracy = len(tasks) == 1 and {*tasks[0][0], *tasks[0][1]} <= {0, 1}
    return Difference(
        difference=float(np.mean([change.mean() for change in changes])),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + int(rarer)) / (1 + RESAMPLES)),
        n=sum(sizes),
        won=won,
        lost=lost,
        stderr=math.sqrt(sum(variances)) / len(tasks) if min(sizes) > 1 else None,
        mcnemar=mcnemar(won, lost) if is_accuracy else None,
    )


def mcnemar(won: int, lost: int) -> float:
    """Two-sided p of the exact test: of the items that flipped, half flip each way by chance."""
    flipped = won + lost
    tail = sum(math.comb(flipped, count) for count in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**flipped)


def _resampled_means(change: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means [RESAMPLES] of samples of `change[n]`, drawn with replacement.

    How often each value is drawn is multinomial; scores have few values, whatever their number.
    """
    import numpy as np

    values, counts = np.unique(change, return_counts=True)
    drawn = generator.multinomial(len(change), counts / len(change), size=RESAMPLES)
    return drawn @ values / len(change)
