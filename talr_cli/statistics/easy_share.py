"""The share of easy target tokens of settings, as contrasts: over optimizer steps and over runs.

Knows metrics.jsonl of run directories; does not know what is claimed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.steps import steps_by_epoch

Steps = dict[int, list[tuple[int, float]]]
Setting = tuple[str, float]  # method and learning rate
StepsOf = Mapping[Setting, Mapping[str, Steps]]


class MetricsError(Exception):
    """Why the metrics of a run do not say what is asked."""


@dataclass(frozen=True)
class Share:
    """Of one run: the share, its variance over steps, how many they are."""

    value: float
    variance: float
    n: int


def read_steps(paths: Mapping[Setting, Sequence[Path]]) -> StepsOf:
    """{setting: {name of a run: its steps}}, from the metrics of run directories."""
    return {
        setting: {path.name: steps_by_epoch(RunDirectory(path).read_metrics()) for path in each}
        for setting, each in paths.items()
    }


def easy_share(runs: StepsOf, setting: Setting, epoch: int) -> Contrast:
    """Of the target tokens of an epoch those that were not hard when they were trained on.

    Args:
        runs: Of all settings: those with several seeds say how far runs lie apart.

    Raises:
        MetricsError: The metrics of the runs have not two steps of the epoch.
    """
    return _over_runs(runs, setting, lambda steps, name: _share(steps, epoch, name))


def easy_share_rise(runs: StepsOf, setting: Setting) -> Contrast:
    """From the first epoch to the second; as `easy_share`."""

    def rise(steps: Steps, name: str) -> Share:
        first, second = (_share(steps, epoch, name) for epoch in (1, 2))
        variance = first.variance + second.variance
        return Share(second.value - first.value, variance, first.n + second.n)

    return _over_runs(runs, setting, rise)


def _over_runs(runs: StepsOf, setting: Setting, measure: Callable[[Steps, str], Share]) -> Contrast:
    own = [measure(steps, name) for name, steps in runs[setting].items()]
    several = []
    for each in runs.values():
        if len(each) > 1:
            try:
                several.append([measure(steps, name).value for name, steps in each.items()])
            except MetricsError:
                continue
    count, n = len(own), sum(one.n for one in own)
    estimate = statistics.fmean(one.value for one in own)
    items = sum(one.variance for one in own) / count**2
    df = sum(len(values) - 1 for values in several)
    if not df:
        return Contrast(estimate, items, None, 1, n)
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    return Contrast(estimate, items, squares / df / count, df, n)


def _share(steps: Steps, epoch: int, name: str) -> Share:
    own = steps.get(epoch, [])
    if len(own) < 2:
        raise MetricsError(f"no metrics of epoch {epoch} in {name}")
    tokens = sum(count for count, _ in own)
    share = sum(count * easy for count, easy in own) / tokens
    # A ratio of two sums over steps (Cochran 1977, chapter 6).
    squares = sum((count * (easy - share)) ** 2 for count, easy in own)
    return Share(share, squares * len(own) / (len(own) - 1) / tokens**2, len(own))
