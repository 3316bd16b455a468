"""Scores of settings (a method at a learning rate): each is a sample of runs on a sample of items.

The variance of a weighted sum of settings is the one over items, for the given runs, plus the one
over runs: the moment estimate of a model with crossed random effects of runs and items. The
interaction of run and item is in both terms and counts twice, so that the estimate is rather too
large, like that of the bootstrap over runs and items (Owen 2007). The deviation between runs is
taken to be the same for all settings of a group. Knows results of one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.items import span
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    averaging_alpha,
    has_both_scores,
    parts_of,
    section_of,
    unlike,
)
from talr_cli.statistics.seeds import SeedGroup, seed_groups

Part = Literal["domain", "general", "both"]  # both: the plain mean of the two


@dataclass(frozen=True)
class Deviation:
    """The variance between runs of one setting, its degrees of freedom, what it is known from."""

    variance: float
    df: int
    source: str


@dataclass(frozen=True)
class Scores:
    """Settings of a group on the same items, the base model among them where it was scored.

    Attributes:
        place: {name of a setting: its index in the arrays}; the base model is `base`.
        runs: [settings]: number of runs; 0 for the base model, which is no sample.
        means: {part: mean scores [settings]}.
        items: {part: covariance over items of the mean scores [settings, settings]}.
        unit: {part: the variance that one more item, on which two settings disagree, would add}.
        sizes: {part: number of items}.
        deviations: {part: deviation between runs; None where no setting has several}.
        left_out: {name: why} of the settings whose items are not known or not the same.
    """

    place: Mapping[str, int]
    runs: np.ndarray
    means: Mapping[Part, np.ndarray]
    items: Mapping[Part, np.ndarray]
    unit: Mapping[Part, float]
    sizes: Mapping[Part, int]
    deviations: Mapping[Part, Deviation | None]
    left_out: Mapping[str, str]

    def contrast(self, part: Part, weights: Mapping[str, float]) -> Contrast:
        """The weighted sum of the mean scores of settings.

        Args:
            weights: By name of a setting.
        """
        vector = np.zeros(len(self.place))
        for name, weight in weights.items():
            vector[self.place[name]] += weight
        # As if there were one more item, half won and half lost (Agresti and Min 2005): without
        # it a few items that all went one way would have no variance at all.
        more = self.unit[part] * (np.abs(vector).sum() / 2) ** 2
        items = float(vector @ self.items[part] @ vector) + more
        deviation = self.deviations[part]
        n = self.sizes[part]
        sampled = (self.runs > 0) & (vector != 0)
        spread = float((vector[sampled] ** 2 / self.runs[sampled]).sum())
        runs = None
        if deviation is not None or not sampled.any():
            runs = deviation.variance * spread if deviation is not None else 0.0
        df = deviation.df if deviation is not None else 1
        return Contrast(float(vector @ self.means[part]), items, runs, df, n)


def scores_of(
    settings: Mapping[str, SeedGroup], base: Results | None, everything: Sequence[Results]
) -> Scores:
    """The scores of settings that were measured alike.

    Args:
        settings: By name.
        everything: All runs of the group, which tell the deviation between runs.
    """
    members = {name: group.runs for name, group in settings.items()}
    if base is not None:
        members = {"base": [base], **members}
    kept, left_out, keys = _paired(members)
    tasks = {
        part: np.array([_matrix(runs, part, keys[part]).mean(axis=0) for runs in kept.values()])
        for part in keys
    }  # [settings, items], runs averaged
    n = {task: scores.shape[1] for task, scores in tasks.items()}
    weights = _weights(list(keys))
    means: dict[Part, np.ndarray] = {}
    covariance: dict[Part, np.ndarray] = {}
    unit: dict[Part, float] = {}
    sizes: dict[Part, int] = {}
    for part, of_tasks in weights.items():
        means[part] = sum(weight * tasks[task].mean(axis=1) for task, weight in of_tasks.items())
        covariance[part] = sum(
            weight**2 * np.atleast_2d(np.cov(tasks[task])) / n[task]
            for task, weight in of_tasks.items()
        )
        unit[part] = sum(
            weight**2 * span(tasks[task]) ** 2 / n[task] / (n[task] - 1)
            for task, weight in of_tasks.items()
        )
        sizes[part] = sum(n[task] for task in of_tasks)
    return Scores(
        place={name: number for number, name in enumerate(kept)},
        runs=np.array([0 if name == "base" else len(runs) for name, runs in kept.items()]),
        means=means,
        items=covariance,
        unit=unit,
        sizes=sizes,
        deviations={part: deviation(everything, part) for part in weights},
        left_out=left_out,
    )


def deviation(runs: Sequence[Results], part: Part) -> Deviation | None:
    """The deviation between runs of one setting, pooled over the settings that have several seeds.

    None where there are none.
    """
    asked, kind = repeated(seed_groups([one for one in runs if has_both_scores(one)]))
    sections = PARTS if part == "both" else (part,)
    scores = [
        [sum(one[section]["score"] for section in sections) / len(sections) for one in group.runs]
        for group in asked
    ]
    used = with_room(scores)
    found = pooled([scores[index] for index in used])
    if found is None:
        return None
    variance, df = found
    methods = sorted({asked[index].label for index in used})
    source = f"{len(used)} {kind} with several seeds, of {', '.join(methods)}: df {df}"
    return Deviation(variance, df, source)


def with_room(scores: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the settings that tell how far runs lie apart, by the scores of their runs.

    Settings whose runs have all items right, or all wrong, cannot deviate: they are left out as
    long as there are others.
    """
    used = [index for index, values in enumerate(scores) if {*values} not in ({0.0}, {1.0})]
    return used or [*range(len(scores))]


def pooled(values: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(variance within settings, its degrees of freedom), of a value of each setting's runs.

    None where no setting has several runs.
    """
    df = sum(len(one) - 1 for one in values)
    squares = sum(float(np.var(one)) * len(one) for one in values)
    return (squares / df, df) if df else None


def repeated(groups: Sequence[SeedGroup]) -> tuple[list[SeedGroup], str]:
    """The settings that tell the deviation between runs, and what to call them.

    Averaged models are left out: they deviate less than the models they are made of. Points along
    trainings, the last of each, count only where no whole training has several seeds.
    """
    several = [
        group for group in groups if averaging_alpha(group.runs[0]) is None and len(group.runs) > 1
    ]
    whole = [group for group in several if group.share == 1]
    last: dict[tuple[str, float | None, str | None], SeedGroup] = {}
    for group in sorted(several, key=lambda group: group.share):
        last[group.label, group.lr, group.setting] = group
    return (whole, "settings") if whole else ([*last.values()], "points along trainings")


def _paired(
    members: Mapping[str, list[Results]],
) -> tuple[dict[str, list[Results]], dict[str, str], dict[str, list[str]]]:
    """The settings whose items are known and the same, why others are not, {part: item ids}."""
    kept: dict[str, list[Results]] = {}
    left_out: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    first: Results | None = None
    for name, runs in members.items():
        reason = next(filter(None, (_why_not(one, first or one) for one in runs)), None)
        if reason is not None:
            left_out[name] = reason
            continue
        kept[name] = runs
        if first is None:
            first = runs[0]
            keys = {part: sorted(_items(first, part)) for part in sorted(parts_of(first))}
    return kept, left_out, keys


def _why_not(one: Results, first: Results) -> str | None:
    """Why a run cannot be set beside the first, item by item; None where it can."""
    if one is not first:
        for section in PARTS:
            reason = unlike(first, one, section)
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
    """Scores [runs, items]."""
    return np.array([[items[key] for key in keys] for items in (_items(one, part) for one in runs)])


def _weights(parts: Sequence[str]) -> dict[Part, dict[str, float]]:
    """{part: {`domain` or `general/TASK`: its weight in the score}}."""
    tasks = [part for part in parts if part != "domain"]
    if not tasks:
        return {}
    domain = {"domain": 1.0}
    general = dict.fromkeys(tasks, 1 / len(tasks))
    both = {"domain": 0.5} | dict.fromkeys(tasks, 0.5 / len(tasks))
    return {"domain": domain, "general": general, "both": both}
