"""What claims are made of: differences of combined runs with their 95% intervals.

Knows scores of items and shares of tokens; does not know what is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.paired import UnpairedError, difference
from talr_cli.statistics.pairs import Results, unlike
from talr_cli.statistics.steps import steps_by_epoch

NORMAL_QUANTILE = 1.959964  # 97.5 %


class MetricsError(Exception):
    """Why the metrics of a run do not say what is asked."""


@dataclass(frozen=True)
class Interval:
    """An estimate between the ends of its 95% interval, from `n` items or steps.

    `is_clear` is False where an exact test takes the estimate for noise, whatever the interval.
    """

    estimate: float
    low: float
    high: float
    n: int
    is_clear: bool = True

    def text(self, sign: str = "+") -> str:
        """`sign` as in a format: empty for a quantity that is no difference."""
        low, high = f"{self.low:{sign}.3f}", f"{self.high:{sign}.3f}"
        return f"{self.estimate:{sign}.3f} [{low}, {high}], n {self.n}"


def combined(runs: Sequence[Results], weights: Sequence[float]) -> Results:
    """A run that nobody made: its scores, item by item, are the weighted sums of those of `runs`.

    Raises:
        UnpairedError: The runs were not measured alike.
    """
    for part in ("domain", "general"):
        for one in runs[1:]:
            reason = unlike(runs[0], one, part)
            if reason is not None:
                raise UnpairedError(reason)
    first = runs[0]
    domain = _combined_section([one["domain"] for one in runs], weights)
    general = _combined_section([one["general"] for one in runs], weights)
    general["tasks"] = {
        task: _combined_section([one["general"]["tasks"][task] for one in runs], weights)
        for task in first["general"].get("tasks", {})
    }
    return {**first, "domain": domain, "general": general}


def mean_of(runs: Sequence[Results]) -> Results:
    """The runs averaged item by item."""
    return runs[0] if len(runs) == 1 else combined(runs, [1 / len(runs)] * len(runs))


def _combined_section(
    sections: Sequence[dict[str, Any]], weights: Sequence[float]
) -> dict[str, Any]:
    by_run = [section["items"] for section in sections if section.get("items")]
    items = None
    if len(by_run) == len(sections) and len({frozenset(one) for one in by_run}) == 1:
        items = {key: _sum([one[key] for one in by_run], weights) for key in by_run[0]}
    score = _sum([section["score"] for section in sections], weights)
    return {**sections[0], "score": score, "items": items}


def _sum(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def change(before: Results, after: Results, part: str) -> Interval:
    """Of the domain or general score, paired by items.

    Raises:
        UnpairedError: The runs were not measured alike, or their items are not known.
    """
    found = difference(before, after, part)
    is_clear = found.is_distinguishable
    return Interval(found.difference, found.low, found.high, found.n, is_clear)


def balance(before: Results, after: Results) -> Interval:
    """The change of the plain mean of the domain and the general score.

    The items of the two are independent: their intervals are joined side by side, each side by the
    root of its squared distances (MOVER, Zou and Donner 2008).
    """
    parts = [change(before, after, part) for part in ("domain", "general")]
    estimate = sum(one.estimate for one in parts) / 2
    below = math.hypot(*(one.estimate - one.low for one in parts)) / 2
    above = math.hypot(*(one.high - one.estimate for one in parts)) / 2
    return Interval(estimate, estimate - below, estimate + above, sum(one.n for one in parts))


def easy_share(runs: Sequence[Path], epoch: int) -> Interval:
    """Of the target tokens of an epoch those that were not hard when they were trained on.

    Raises:
        MetricsError: The metrics of the runs have not two steps of the epoch.
    """
    metrics = [RunDirectory(run).read_metrics() for run in runs]
    steps = [step for rows in metrics for step in steps_by_epoch(rows).get(epoch, ())]
    if len(steps) < 2:
        raise MetricsError(f"no metrics of epoch {epoch} in {runs[0].name}")
    tokens = sum(count for count, _ in steps)
    share = sum(count * easy for count, easy in steps) / tokens
    # A ratio of two sums over steps (Cochran 1977, chapter 6).
    squares = sum((count * (easy - share)) ** 2 for count, easy in steps)
    error = NORMAL_QUANTILE * math.sqrt(squares * len(steps) / (len(steps) - 1)) / tokens
    return Interval(share, share - error, share + error, len(steps))


def easy_share_rise(runs: Sequence[Path]) -> Interval:
    """From the first epoch to the second; raises as `easy_share`."""
    first, second = (easy_share(runs, epoch) for epoch in (1, 2))
    estimate = second.estimate - first.estimate
    error = math.hypot(first.high - first.estimate, second.high - second.estimate)
    return Interval(estimate, estimate - error, estimate + error, first.n + second.n)
