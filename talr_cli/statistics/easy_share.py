"""The share of easy target tokens: those with p >= 0.2 when they are trained on (claim 4).

Read from the metrics of runs: by epoch of one run, or as a contrast over optimizer steps and runs.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.items import clustered_error
from talr_cli.statistics.settings import pooled_variance

Steps = dict[int, list[tuple[int, float]]]  # as `steps_by_epoch` returns
Setting = tuple[str, float]  # method and learning rate
StepsOf = Mapping[Setting, Mapping[str, Steps]]  # by setting, then by name of the run
Estimated = tuple[float, float, int]  # an estimate, its variance over steps, the number of steps


class MetricsError(Exception):
    """Why the metrics of a run do not give the share."""


def steps_by_epoch(metrics: Sequence[dict[str, Any]]) -> Steps:
    """{epoch, from 1: [(number of target tokens, share of easy ones) of each optimizer step]}.

    Args:
        metrics: Rows of metrics.jsonl.
    """
    steps: Steps = defaultdict(list)
    for row in metrics:
        epoch, tokens = row.get("epoch"), row.get("target_tokens")
        hard = row.get("hard_token_share")
        if tokens and epoch is not None and hard is not None:
            # A step that ends at epoch 1.0 belongs to the first epoch.
            steps[max(1, math.ceil(epoch))].append((tokens, 1 - hard))
    return steps


def easy_share_by_epoch(metrics: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The share of easy target tokens in each epoch, from the rows of a run's metrics.jsonl."""
    return [
        {"epoch": epoch, "easy_share": _mean_share(steps)}
        for epoch, steps in sorted(steps_by_epoch(metrics).items())
    ]


def read_steps(paths: Mapping[Setting, Sequence[Path]]) -> StepsOf:
    """{setting: {name of a run: its steps}}, from the metrics of run directories."""
    return {
        setting: {path.name: steps_by_epoch(RunDirectory(path).read_metrics()) for path in each}
        for setting, each in paths.items()
    }


def easy_share(runs: StepsOf, setting: Setting, epoch: int) -> Contrast:
    """The share of easy target tokens in an epoch, averaged over the setting's runs.

    Args:
        runs: Those of all settings; the variance between runs is estimated from the settings that
            have several seeds.

    Raises:
        MetricsError: The metrics of a run have fewer than two steps of the epoch.
    """
    return _over_runs(runs, setting, lambda steps, name: _share(steps, epoch, name))


def easy_share_rise(runs: StepsOf, setting: Setting) -> Contrast:
    """The rise of the share from the first epoch to the second; as `easy_share`."""

    def rise(steps: Steps, name: str) -> Estimated:
        first, second = (_share(steps, epoch, name) for epoch in (1, 2))
        return second[0] - first[0], first[1] + second[1], first[2] + second[2]

    return _over_runs(runs, setting, rise)


def _over_runs(
    runs: StepsOf, setting: Setting, estimate: Callable[[Steps, str], Estimated]
) -> Contrast:
    """The mean over the runs of a setting; the variance between runs is pooled over settings."""
    values, variances, counts = zip(
        *(estimate(steps, name) for name, steps in runs[setting].items()), strict=True
    )
    several = []
    for each in runs.values():
        with suppress(MetricsError):
            several.append([estimate(steps, name)[0] for name, steps in each.items()])
    between = pooled_variance(several)
    return Contrast(
        estimate=statistics.fmean(values),
        item_variance=sum(variances) / len(values) ** 2,
        run_variance=None if between is None else between[0] / len(values),
        df=1 if between is None else between[1],
        n=sum(counts),
    )


def _share(steps: Steps, epoch: int, name: str) -> Estimated:
    own = steps.get(epoch, [])
    error = clustered_error([count * easy for count, easy in own], [count for count, _ in own])
    if error is None:
        raise MetricsError(f"no metrics of epoch {epoch} in {name}")
    return _mean_share(own), error**2, len(own)


def _mean_share(steps: Sequence[tuple[int, float]]) -> float:
    return sum(count * easy for count, easy in steps) / sum(count for count, _ in steps)
