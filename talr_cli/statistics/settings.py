"""What methods at learning rates score: each setting a sample of runs, on a sample of items.

The variance of a weighted sum of settings is that over items, for the given runs, plus that over
runs. It is the moment estimate of a model with crossed random effects of runs and items. The
interaction of run and item is in both terms and counts twice, so the estimate errs on the safe
side, as the bootstrap over runs and items does (Owen 2007). The deviation between runs is taken to
be the same for all settings of a group. Knows results of one group; does not know what is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.items import span
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    averaging_alpha,
    has_both_scores,
    section_of,
    unlike,
)
from talr_cli.statistics.seeds import SeedGroup, seed_groups

if TYPE_CHECKING:
    import numpy as np

Part = Literal["domain", "general", "both"]  # both: the plain mean of the two


@dataclass(frozen=True)
class Deviation:
    """The standard deviation between runs of one setting: its square, and what it is known from."""

    variance: float
    df: int
    source: str


@dataclass(frozen=True)
class Scores:
    """Settings of a group on the same items, the base model among them where it was scored.

    Attributes:
        place: {name of a setting: where it stands in the arrays}; the base is `base`.
        runs: How many runs each setting has; 0 for the base model, which is no sample.
        means: {part: [settings]}.
        items: {part: [settings, settings]}: covariance of the means over items.
        unit: {part: variance that one more item on which two settings disagree would bring}.
        sizes: {part: items}.
        deviations: {part: what is known of the deviation between runs}.
        tasks: For `domain` and each task of the general score [settings, items], runs averaged.
        left_out: {name: why} of the settings whose items are not known or not the same.
    """

    place: Mapping[str, int]
    runs: np.ndarray
    means: Mapping[Part, np.ndarray]
    items: Mapping[Part, np.ndarray]
    unit: Mapping[Part, float]
    sizes: Mapping[Part, int]
    deviations: Mapping[Part, Deviation | None]
    tasks: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]

    def contrast(self, part: Part, weights: Mapping[str, float]) -> Contrast:
        """The sum of `weights` times the mean scores of the settings that they name."""
        import numpy as np

        vector = np.zeros(len(self.place))
        for name, weight in weights.items():
            vector[self.place[name]] += weight
        # As if there were one more item, half won and half lost (Agresti and Min 2005): without
        # it a handful of items that all went one way would have no variance at all.
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
        everything: The runs of the group: where no setting has several, points along their
            trainings may tell how far runs lie apart.
    """
    import numpy as np

    members = {name: group.runs for name, group in settings.items()}
    if base is not None:
        members = {"base": [base], **members}
    kept, left_out, keys = _paired(members)
    matrices = {
        part: [_matrix(runs, part, keys[part]) for runs in kept.values()] for part in keys
    }  # of each setting [runs, items]
    tasks = {
        part: np.array([one.mean(axis=0) for one in each]) if each else np.zeros((0, 0))
        for part, each in matrices.items()
    }
    weights = _weights(list(keys))
    means: dict[Part, np.ndarray] = {}
    covariance: dict[Part, np.ndarray] = {}
    unit: dict[Part, float] = {}
    sizes: dict[Part, int] = {}
    for part, of_tasks in weights.items():
        means[part] = sum(weight * tasks[task].mean(axis=1) for task, weight in of_tasks.items())
        covariance[part] = sum(
            weight**2 * np.atleast_2d(np.cov(tasks[task])) / tasks[task].shape[1]
            for task, weight in of_tasks.items()
        )
        unit[part] = sum(
            weight**2 * span(tasks[task]) ** 2 / n / (n - 1)
            for task, weight in of_tasks.items()
            for n in (tasks[task].shape[1],)
        )
        sizes[part] = sum(tasks[task].shape[1] for task in of_tasks)
    return Scores(
        place={name: number for number, name in enumerate(kept)},
        runs=np.array([0 if name == "base" else len(runs) for name, runs in kept.items()]),
        means=means,
        items=covariance,
        unit=unit,
        sizes=sizes,
        deviations={part: deviation(everything, part) for part in weights},
        tasks=tasks,
        left_out=left_out,
    )


def deviation(runs: Sequence[Results], part: Part) -> Deviation | None:
    """How far runs of one setting lie apart: `pooled` over the settings that have several seeds."""
    asked, kind = repeated(seed_groups([one for one in runs if has_both_scores(one)]))
    scores = [[_functional(one, part) for one in group.runs] for group in asked]
    used = with_room(scores)
    found = pooled([scores[place] for place in used])
    if found is None:
        return None
    variance, df = found
    methods = sorted({asked[place].label for place in used})
    source = f"{len(used)} {kind} with several seeds, of {', '.join(methods)}: df {df}"
    return Deviation(variance, df, source)


def with_room(scores: Sequence[Sequence[float]]) -> list[int]:
    """The places of the settings that tell how far runs lie apart, by the scores of their runs.

    Settings whose runs have all items right, or all wrong, have no room to deviate: they are left
    out as long as there are others.
    """
    used = [place for place, values in enumerate(scores) if {*values} not in ({0.0}, {1.0})]
    return used or [*range(len(scores))]


def pooled(values: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(variance within settings, its degrees of freedom), of a value of each setting's runs.

    None where no setting has several runs.
    """
    import numpy as np

    df = sum(len(one) - 1 for one in values)
    squares = sum(float(np.var(one)) * len(one) for one in values)
    return (squares / df, df) if df else None


def repeated(groups: Sequence[SeedGroup]) -> tuple[list[SeedGroup], str]:
    """The settings that tell how far runs lie apart, and what they are called.

    Averaged models are left out: they deviate less than what they are made of. Points along the
    trainings are asked only where no whole training was made with several seeds, the last of each.
    """
    several = [
        group for group in groups if averaging_alpha(group.runs[0]) is None and len(group.runs) > 1
    ]
    whole = [group for group in several if group.share == 1]
    last: dict[tuple[str, float | None, str | None], SeedGroup] = {}
    for group in sorted(several, key=lambda group: group.share):
        last[group.label, group.lr, group.setting] = group
    return (whole, "settings") if whole else ([*last.values()], "points along trainings")


def _functional(one: Results, part: Part) -> float:
    sections = PARTS if part == "both" else (part,)
    return sum(one[section]["score"] for section in sections) / len(sections)


def _paired(
    members: Mapping[str, list[Results]],
) -> tuple[dict[str, list[Results]], dict[str, str], dict[str, list[str]]]:
    """The settings whose items are known and the same, why others are not, {part: items}."""
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
            keys = {part: sorted(_items(first, part)) for part in _parts_of(first)}
    return kept, left_out, keys


def _why_not(one: Results, first: Results) -> str | None:
    for part in PARTS:
        reason = None if one is first else unlike(first, one, part)
        if reason is not None:
            return reason
    for part in _parts_of(first):
        items = _items(one, part)
        if not items:
            return f"the scores of the items of {part} are not in results.json"
        if len(items) == 1:
            return f"{part} has a single item, which says nothing of others"
        if items.keys() != _items(first, part).keys():
            return f"{part} was scored on other items"
    return None


def _parts_of(one: Results) -> list[str]:
    return ["domain", *(f"general/{task}" for task in sorted(one["general"].get("tasks", {})))]


def _items(one: Results, part: str) -> dict[str, float]:
    return (section_of(one, part) or {}).get("items") or {}


def _matrix(runs: Sequence[Results], part: str, keys: Sequence[str]) -> np.ndarray:
    import numpy as np

    return np.array([[items[key] for key in keys] for items in (_items(one, part) for one in runs)])


def _weights(parts: Sequence[str]) -> dict[Part, dict[str, float]]:
    """{part: {what it is the weighted mean of: weight}}."""
    tasks = [part for part in parts if part != "domain"]
    if not tasks:
        return {}
    domain = {"domain": 1.0}
    general = dict.fromkeys(tasks, 1 / len(tasks))
    both = {"domain": 0.5} | dict.fromkeys(tasks, 0.5 / len(tasks))
    return {"domain": domain, "general": general, "both": both}
