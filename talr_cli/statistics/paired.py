"""Two runs on the same items: the difference of their scores, and whether it is more than noise.

Two answers to the same item agree more often than answers to different items, so a paired
difference has a smaller error than that of two independent scores. Items are a sample of all
possible questions. The two models are fixed: another seed is another model. Knows results only.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.statistics.items import span
from talr_cli.statistics.pairs import Results, mismatch, score_of, section_of, tasks_of

RESAMPLES = 10_000
LEVEL = 0.05
_NORMAL = statistics.NormalDist().inv_cdf(1 - LEVEL / 2)
_MAX_COUNTS = 10_000_000  # numbers in memory at once


class UnpairedError(Exception):
    """Why two scores cannot be compared item by item."""


@dataclass(frozen=True)
class Difference:
    """The difference of the scores of two runs on the same items.

    Attributes:
        difference: The second score minus the first.
        low, high: The 95% percentile interval of the bootstrap over items. It is widened for tasks
            whose items all changed alike, as then the bootstrap sees no error: by the error of one
            more item that does not, and by the whole range for a single item.
        p: Two-sided, from the same bootstrap: twice the share of resamples on the rarer side of 0.
        n, won, lost: Number of items, and of items on which the second scored higher, and lower.
        stderr: Standard error of the difference; None if a task has a single item.
        sign_flip: Two-sided p of the permutation test that flips the signs of items' changes.
        mcnemar: Two-sided p of McNemar's exact test, the same in closed form; None unless this is
            one task whose items are all 0 or 1.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    won: int
    lost: int
    stderr: float | None
    sign_flip: float
    mcnemar: float | None

    @property
    def text(self) -> str:
        """The difference with its interval, as `with_interval` writes it."""
        return with_interval(self.difference, self.low, self.high)

    @property
    def is_distinguishable(self) -> bool:
        """Whether it is more than noise at the 5% level, by the bootstrap and by the exact test.

        The bootstrap alone has too many false positives if few items differ. False if a task has a
        single item.
        """
        exact = self.sign_flip if self.mcnemar is None else self.mcnemar
        return self.stderr is not None and self.p < LEVEL and exact < LEVEL


def compare_part(before: Results, after: Results, part: str) -> Difference | None:
    """As `difference`; None if the runs cannot be paired."""
    try:
        return difference(before, after, part)
    except UnpairedError:
        return None


def with_interval(difference: float, low: float, high: float) -> str:
    """A difference with its interval, as all tables write it; never -0.000."""
    return f"{difference:+z.3f} [{low:+z.3f}, {high:+z.3f}]"


def difference(before: Results, after: Results, part: str) -> Difference:
    """The change of the score of a part from `before` to `after`.

    Args:
        part: `domain`, `general` (the mean of the tasks) or `general/TASK`.

    Raises:
        UnpairedError: As in `paired_tasks`.
    """
    return paired_difference(paired_tasks(before, after, part))


def paired_tasks(before: Results, after: Results, part: str) -> list[list[tuple[float, float]]]:
    """The scores of the items in each task of a part, as `paired_difference` takes them.

    Raises:
        UnpairedError: The runs were not measured in the same way, or their items are unknown or
            not the same.
    """
    _check_alike(before, after, part)
    parts = sorted(tasks_of(before)) if part == "general" else [part]
    tasks = [[*paired_items(before, after, one).values()] for one in parts]
    if not tasks or not all(tasks):
        raise UnpairedError("there are no items")
    first, second = (score_of(one, part) for one in (before, after))
    if first is None or second is None:
        raise UnpairedError(f"a score of {part} is not a number")
    changes = (math.fsum(new - old for old, new in task) / len(task) for task in tasks)
    if not math.isclose(sum(changes) / len(tasks), second - first, abs_tol=1e-9):
        raise UnpairedError(f"{part} is not the mean of its items")
    return tasks


def paired_items(before: Results, after: Results, part: str) -> dict[str, tuple[float, float]]:
    """{item: its score before and after} of `domain` or of `general/TASK`.

    Raises:
        UnpairedError: As in `paired_tasks`.
    """
    _check_alike(before, after, part)
    first, second = ((section_of(one, part) or {}).get("items") for one in (before, after))
    if first is None or second is None:
        raise UnpairedError(f"the scores of the items of {part} are not in results.json")
    if first.keys() != second.keys():
        shared = len(first.keys() & second.keys())
        raise UnpairedError(
            f"{part} was scored on other items: {len(first)} and {len(second)}, {shared} in common"
        )
    return {key: (score, second[key]) for key, score in first.items()}


def _check_alike(before: Results, after: Results, part: str) -> None:
    reason = mismatch(before, after, part)
    if reason is not None:
        raise UnpairedError(reason)


def paired_difference(tasks: Sequence[Sequence[tuple[float, float]]]) -> Difference:
    """The unweighted mean over tasks of the mean difference of their items.

    Args:
        tasks: For each task the scores (before, after) of its items; at least one task.
    """
    import numpy as np

    changes = [np.diff(task).ravel() for task in tasks]
    sizes = [len(change) for change in changes]
    won = sum(int((change > 0).sum()) for change in changes)
    lost = sum(int((change < 0).sum()) for change in changes)
    stderr = None
    if min(sizes) > 1:
        variances = (change.var(ddof=1) / len(change) for change in changes)
        stderr = math.sqrt(sum(variances)) / len(tasks)
    counted = [np.unique(change, return_counts=True) for change in changes]
    low, high, p, sign_flip = _bootstrap(
        tuple((tuple(v.tolist()), tuple(n.tolist())) for v, n in counted)
    )
    alike = [
        np.array(task) for task, change in zip(tasks, changes, strict=True) if not np.ptp(change)
    ]
    single = sum(span(task) for task in alike if len(task) == 1)
    unseen = sum(span(task) ** 2 / len(task) / (len(task) - 1) for task in alike if len(task) > 1)
    margin = (single + _NORMAL * math.sqrt(unseen)) / len(tasks)
    is_accuracy = len(tasks) == 1 and all({*pair} <= {0, 1} for pair in tasks[0])
    return Difference(
        difference=float(np.mean([change.mean() for change in changes])),
        low=low - margin,
        high=high + margin,
        p=p,
        n=sum(sizes),
        won=won,
        lost=lost,
        stderr=stderr,
        sign_flip=sign_flip,
        mcnemar=mcnemar(won, lost) if is_accuracy else None,
    )


@functools.cache  # several parts of a report need the same result
def _bootstrap(
    tasks: tuple[tuple[tuple[float, ...], tuple[int, ...]], ...],
) -> tuple[float, float, float, float]:
    """The 95% interval, p and `sign_flip` of a mean over tasks.

    Percentile interval and permutation test of Efron and Tibshirani (1993, chapters 13 and 15).
    Items are resampled within each task. How often each value is drawn is multinomial, which equals
    drawing items one by one and is fast if the changes have few values.

    Args:
        tasks: For each task the distinct changes of its items, and how often each occurs.
    """
    import numpy as np

    generator, coin = np.random.default_rng(0), np.random.default_rng(1)
    total, flipped = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    measured = 0.0
    for values, counts in tasks:
        n = sum(counts)
        measured += float(np.dot(values, counts)) / n
        sizes, index = np.unique(np.abs(values), return_inverse=True)
        changed = np.bincount(index, counts).astype(int)
        at_once = max(1, _MAX_COUNTS // len(values))  # with partial credit, each item has its own
        for start in range(0, RESAMPLES, at_once):
            part = total[start : start + at_once]
            drawn = generator.multinomial(n, np.divide(counts, n), size=len(part))
            part += drawn @ values / n
            positive = coin.binomial(changed, 0.5, size=(len(part), len(sizes)))
            flipped[start : start + at_once] += (2 * positive - changed) @ sizes / n
    means = (total / len(tasks)).round(12)  # opposite changes sum to a rounding error, not to 0
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    as_extreme = int((np.abs(flipped).round(12) >= abs(round(measured, 12))).sum())
    return (
        float(low),
        float(high),
        min(1.0, 2 * (1 + rarer) / (1 + RESAMPLES)),
        (1 + as_extreme) / (1 + RESAMPLES),
    )


def mcnemar(won: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: by chance, items flip equally often either way."""
    flipped = won + lost
    # Each binomial coefficient from the one before: anew, those of 16,000 flips take 10 seconds.
    coefficients = itertools.accumulate(
        range(min(won, lost)),
        lambda before, count: before * (flipped - count) // (count + 1),
        initial=1,
    )
    tail = sum(coefficients)
    return min(1.0, 2 * tail / 2**flipped)
