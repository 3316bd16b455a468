"""Scores of settings (a method at a learning rate), each measured on a sample of runs and items.

The variance of a contrast of settings is the sum of two terms: over items with the runs fixed, and
over runs. This is the moment estimate in a model with crossed random effects of runs and items.
Both terms contain the interaction of run and item, so the estimate is slightly too large, as is
that of a bootstrap over runs and items (Owen 2007). All settings of a group are assumed to have the
same variance between runs. Knows results of one group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.items import span
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    averaging_alpha,
    has_both_scores,
    mismatch,
    parts_of,
    section_of,
)
from talr_cli.statistics.seeds import SeedGroup, seed_groups

Part = Literal["domain", "general", "both"]  # both: the plain mean of the two


@dataclass(frozen=True)
class RunVariance:
    """The variance between runs of one setting, its degrees of freedom, and where it comes from."""

    variance: float
    df: int
    source: str


@dataclass(frozen=True)
class Scores:
    """The scores of settings on the same items, with the base model's if it was scored.

    Attributes:
        index: {name of a setting: its index in the arrays}; the base model is `base`.
        run_counts: Number of runs [settings]; 0 for the base model, which is not a sample.
        means: {part: mean scores [settings]}.
        item_covariance: {part: covariance over items of the mean scores [settings, settings]}.
        extra_item: {part: the variance that one more item would add, on which settings disagree}.
        item_counts: {part: number of items}.
        run_variances: {part: variance between runs; None if no setting has several}.
        left_out: {name: reason} of the settings whose items are unknown or not the same.
    """

    index: Mapping[str, int]
    run_counts: np.ndarray
    means: Mapping[Part, np.ndarray]
    item_covariance: Mapping[Part, np.ndarray]
    extra_item: Mapping[Part, float]
    item_counts: Mapping[Part, int]
    run_variances: Mapping[Part, RunVariance | None]
    left_out: Mapping[str, str]

    def contrast(self, part: Part, weights: Mapping[str, float]) -> Contrast:
        """The weighted sum of the mean scores of settings.

        Args:
            weights: By name of the setting.
        """
        vector = np.zeros(len(self.index))
        for name, weight in weights.items():
            vector[self.index[name]] += weight
        # One more item is added, half won and half lost (Agresti and Min 2005): a few items that
        # all changed in the same direction would otherwise have no variance.
        extra = self.extra_item[part] * (np.abs(vector).sum() / 2) ** 2
        between = self.run_variances[part]
        sampled = (self.run_counts > 0) & (vector != 0)
        of_runs = None
        if between is not None:
            squares = float((vector[sampled] ** 2 / self.run_counts[sampled]).sum())
            of_runs = between.variance * squares
        return Contrast(
            estimate=float(vector @ self.means[part]),
            item_variance=float(vector @ self.item_covariance[part] @ vector) + extra,
            run_variance=of_runs,
            df=between.df if between is not None else 1,
            n=self.item_counts[part],
        )


def scores_of(
    settings: Mapping[str, SeedGroup], base: Results | None, everything: Sequence[Results]
) -> Scores:
    """The scores of those settings that can be compared item by item.

    Args:
        settings: By name.
        everything: All runs of the group, for the variance between runs.
    """
    members = {name: group.runs for name, group in settings.items()}
    if base is not None:
        members = {"base": [base], **members}
    kept, left_out, keys = _on_same_items(members)
    tasks = {
        part: np.array([_matrix(runs, part, keys[part]).mean(axis=0) for runs in kept.values()])
        for part in keys
    }  # [settings, items], runs averaged
    n = {task: scores.shape[1] for task, scores in tasks.items()}
    weights = _weights(list(keys))

    def of_parts(value: Callable[[str, float], Any]) -> dict[Part, Any]:
        """{part: the sum over its tasks of value(task, its weight)}."""
        return {part: sum(value(*one) for one in own.items()) for part, own in weights.items()}

    return Scores(
        index={name: number for number, name in enumerate(kept)},
        run_counts=np.array([0 if name == "base" else len(runs) for name, runs in kept.items()]),
        means=of_parts(lambda task, weight: weight * tasks[task].mean(axis=1)),
        item_covariance=of_parts(
            lambda task, weight: weight**2 * np.atleast_2d(np.cov(tasks[task])) / n[task]
        ),
        extra_item=of_parts(
            lambda task, weight: weight**2 * span(tasks[task]) ** 2 / n[task] / (n[task] - 1)
        ),
        item_counts=of_parts(lambda task, weight: n[task]),
        run_variances=run_variances(everything, [*weights]),
        left_out=left_out,
    )


def run_variances(runs: Sequence[Results], parts: Sequence[Part]) -> dict[Part, RunVariance | None]:
    """The variance between runs, pooled over the settings with several seeds; None without any."""
    several, kind = replicated(seed_groups([one for one in runs if has_both_scores(one)]))
    return {part: _run_variance(several, kind, part) for part in parts}


def _run_variance(several: Sequence[SeedGroup], kind: str, part: Part) -> RunVariance | None:
    """That of one part; the other arguments are what `replicated` returns."""
    sections = PARTS if part == "both" else (part,)
    scores = [
        [sum(one[section]["score"] for section in sections) / len(sections) for one in group.runs]
        for group in several
    ]
    used = informative(scores)
    found = pooled_variance([scores[index] for index in used])
    if found is None:
        return None
    variance, df = found
    methods = sorted({several[index].label for index in used})
    source = f"{len(used)} {kind} with several seeds, of {', '.join(methods)}: df {df}"
    return RunVariance(variance, df, source)


def informative(scores: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the settings from whose scores the variance between runs is estimated.

    The runs of a setting that have all items right, or all wrong, cannot vary. Such settings are
    left out, unless there are no others.

    Args:
        scores: The scores of the runs of each setting.
    """
    used = [index for index, values in enumerate(scores) if {*values} not in ({0.0}, {1.0})]
    return used or [*range(len(scores))]


def pooled_variance(values: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(pooled variance within settings, degrees of freedom); None if no setting has several runs.

    Args:
        values: One of each run, by setting.
    """
    df = sum(len(one) - 1 for one in values)
    squares = sum(float(np.var(one)) * len(one) for one in values)
    return (squares / df, df) if df else None


def replicated(groups: Sequence[SeedGroup]) -> tuple[list[SeedGroup], str]:
    """The settings with several seeds, for the variance between runs, and what to call them.

    Averaged models are left out, as they vary less than the models that they are made of. If no
    setting has several seeds at the end of training, the last points along trainings count.
    """
    several = [
        group for group in groups if averaging_alpha(group.runs[0]) is None and len(group.runs) > 1
    ]
    whole = [group for group in several if group.share == 1]
    last: dict[tuple[str, float | None, str | None], SeedGroup] = {}
    for group in sorted(several, key=lambda group: group.share):
        last[group.label, group.lr, group.setting] = group
    return (whole, "settings") if whole else ([*last.values()], "points along trainings")


def _on_same_items(
    members: Mapping[str, list[Results]],
) -> tuple[dict[str, list[Results]], dict[str, str], dict[str, list[str]]]:
    """The settings that share their items, {name: reason} of the others, and {part: item ids}."""
    kept: dict[str, list[Results]] = {}
    left_out: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    first: Results | None = None
    for name, runs in members.items():
        reason = next(filter(None, (_item_mismatch(one, first or one) for one in runs)), None)
        if reason is not None:
            left_out[name] = reason
            continue
        kept[name] = runs
        if first is None:
            first = runs[0]
            keys = {part: sorted(_items(first, part)) for part in sorted(parts_of(first))}
    return kept, left_out, keys


def _item_mismatch(one: Results, first: Results) -> str | None:
    """Why a run cannot be compared with the first item by item; None if it can."""
    if one is not first:
        for section in PARTS:
            reason = mismatch(first, one, section)
            if reason is not None:
                return reason
    for part in sorted(parts_of(first)):
        items = _items(one, part)
        if not items:
            return f"the scores of the items of {part} are not in results.json"
        if len(items) == 1:
            return f"{part} has a single item, which says nothing of others"
        if items.keys() != _items(first, part).keys():
            return f"{part} was scored on other items"
    return None


def _items(one: Results, part: str) -> dict[str, float]:
    return (section_of(one, part) or {}).get("items") or {}


def _matrix(runs: Sequence[Results], part: str, keys: Sequence[str]) -> np.ndarray:
    """The scores [runs, items]."""
    return np.array([[items[key] for key in keys] for items in (_items(one, part) for one in runs)])


def _weights(parts: Sequence[str]) -> dict[Part, dict[str, float]]:
    """{part: {`domain` or `general/TASK`: its weight in the part's score}}."""
    tasks = [part for part in parts if part != "domain"]
    if not tasks:
        return {}
    domain = {"domain": 1.0}
    general = dict.fromkeys(tasks, 1 / len(tasks))
    both = {"domain": 0.5} | dict.fromkeys(tasks, 0.5 / len(tasks))
    return {"domain": domain, "general": general, "both": both}
