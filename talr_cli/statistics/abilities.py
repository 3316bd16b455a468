"""Which abilities were lost: items right before and wrong after, and the reverse, less guessing.

A mean hides that one fact was forgotten where another was learned. So transitions are counted: 1->0
is forgetting, 0->1 the reverse (Harmon et al. 2025, arXiv 2510.17776, who subtract what independent
guesses would add). Models repeat most of their guesses, so less has to be subtracted; the form here
is ours. Let an item have k choices and be guessed both times. A move between any two choices is
then equally likely: k-1 of the moves go from the right choice to a wrong one, and (k-1)(k-2) from
one wrong choice to another. Of the latter kind a share D of the items is seen: wrong both times,
with different answers. Besides, an item that was known and is guessed now is still right in one of
k cases. So where a share F of the items is seen to go 1->0,

    known before, guessed after = (F - D / (k-2)) k / (k-1)

and likewise for 0->1. It is a mean over items, each with its own k, and can be below 0 by chance.
The difference of the two is the change of the mean times k / (k-1). A training that teaches other
wrong answers raises D too, which makes the estimate rather too small. With two choices D cannot be
seen, and written answers are not guessed: there F is taken as it is. Knows results of one group and
which answers were chosen; not where these are read.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, measured_alike, parts_of, run_label, section_of
from talr_cli.statistics.seeds import seed_groups
from talr_cli.statistics.settings import pooled, repeated, with_room


@dataclass(frozen=True)
class Guesses:
    """What is known of answers that were chosen among given ones, and so may be guesses.

    Attributes:
        choices: {part: {item: number of choices}}; 1 where the answer was written.
        moved: {id of a run: {part: items that the run and the base model both have wrong, with
            different answers}}; parts where that is not known are missing.
    """

    choices: Mapping[str, Mapping[str, int]]
    moved: Mapping[str, Mapping[str, frozenset[str]]]


@dataclass(frozen=True)
class Ability:
    """What became of the items of `domain` or `general/TASK` in a setting, its seeds averaged.

    Attributes:
        label, lr, seeds: The setting, as `run_label` names it, and its number of runs.
        n: Number of items.
        chance: Mean of 1/k over the items, 0 of a written answer; None where it is not known and
            nothing is subtracted.
        before, after: Shares of items that are right, as they are.
        change: `after` less `before`.
        lost, won: Shares of items, less what guessing makes; `lost_seen`, `won_seen`: as counted.
    """

    part: str
    label: str
    lr: float | None
    seeds: int
    n: int
    chance: float | None
    before: float
    after: float
    change: Contrast
    lost: Contrast
    won: Contrast
    lost_seen: float
    won_seen: float


def abilities(group: Group, guesses: Guesses) -> list[Ability]:
    """Every setting of the group, part by part; parts with scores other than 0 and 1 are left out.

    Errors are over items, and over runs where some setting has several seeds.
    """
    base = group.base
    if base is None:
        return []
    settings = seed_groups(group.runs)
    found = []
    for part in parts_of(base):
        known = [
            (setting, counted)
            for setting in settings
            if (counted := _counted(base, setting.runs, part, guesses)) is not None
        ]
        asked = {id(one) for one in repeated([setting for setting, _ in known])[0]}
        between = _between([counted for setting, counted in known if id(setting) in asked])
        found += [
            _ability(part, run_label(setting.runs[0]), setting.lr, counted, between)
            for setting, counted in known
        ]
    return found


def abilities_of(base: Results, one: Results, guesses: Guesses) -> list[Ability]:
    """As `abilities`, of a single run: errors are over items only."""
    lr = one["run"]["lr"]
    return [
        _ability(part, run_label(one), lr, counted, None)
        for part in parts_of(base)
        if (counted := _counted(base, [one], part, guesses)) is not None
    ]


@dataclass(frozen=True)
class _Counted:
    """What is counted of a setting, for the quantities `change`, `lost` and `won` of `Ability`.

    Attributes:
        values: {quantity: [runs, items]}.
        most: {quantity: the most that an item can add}.
    """

    values: Mapping[str, np.ndarray]
    before: float
    after: Sequence[float]  # of each run
    chance: float | None
    most: Mapping[str, float]
    lost_seen: float
    won_seen: float


def _counted(
    base: Results, runs: Sequence[Results], part: str, guesses: Guesses
) -> _Counted | None:
    """None where items are not known, not the same, or not right or wrong."""
    sections = [section_of(one, part) or {} for one in (base, *runs)]
    items = [section.get("items") or {} for section in sections]
    keys = [*items[0]]
    if len(keys) < 2 or any(one.keys() != items[0].keys() for one in items):
        return None
    if not all(measured_alike(base, one, part) for one in runs):
        return None
    before, *after = np.array([[one[key] for key in keys] for one in items])
    if not np.isin([before, *after], (0, 1)).all():
        return None
    right = np.array(after)
    lost, won = before * (1 - right), (1 - before) * right
    choices = guesses.choices.get(part, {})
    moves = [guesses.moved.get(one["run"]["id"], {}).get(part) for one in runs]
    is_known = bool(choices) and None not in moves
    k = np.array([choices.get(key, 1) if is_known else 1 for key in keys], float)
    factor = np.where(k > 2, k / np.maximum(k - 1, 1), 1.0)
    moved = np.array([[key in own for key in keys] for own in (each or () for each in moves)])
    guessed = np.where(k > 2, moved / np.maximum(k - 2, 1), 0.0)
    return _Counted(
        values={
            "change": right - before,
            "lost": factor * (lost - guessed),
            "won": factor * (won - guessed),
        },
        before=float(before.mean()),
        after=right.mean(axis=1).tolist(),
        chance=float(np.where(k > 1, 1 / k, 0.0).mean()) if is_known else None,
        most={"change": 1.0, "lost": float(factor.mean()), "won": float(factor.mean())},
        lost_seen=float(lost.mean()),
        won_seen=float(won.mean()),
    )


def _between(settings: Sequence[_Counted]) -> dict[str, tuple[float, int]] | None:
    """{quantity: variance between runs, degrees of freedom}; None with one seed of each setting.

    As in `settings.deviation`, so that a change has the same error as where scores are compared.
    """
    used = [settings[index] for index in with_room([one.after for one in settings])]
    keys = used[0].values if used else ()
    found = {key: pooled([one.values[key].mean(axis=1) for one in used]) for key in keys}
    return {key: one for key, one in found.items() if one is not None} or None


def _ability(
    part: str,
    label: str,
    lr: float | None,
    counted: _Counted,
    between: Mapping[str, tuple[float, int]] | None,
) -> Ability:
    runs, n = counted.values["change"].shape
    contrasts = {}
    for key, values in counted.values.items():
        of_items = values.mean(axis=0)
        # As if there were one more item: else a task where nothing flipped would have no error.
        more = counted.most[key] ** 2 / n / (n - 1)
        variance, df = between[key] if between is not None else (0.0, 1)
        contrasts[key] = Contrast(
            estimate=float(of_items.mean()),
            items=float(of_items.var(ddof=1)) / n + more,
            runs=variance / runs if between is not None else None,
            df=df,
            n=n,
        )
    return Ability(
        part=part,
        label=label,
        lr=lr,
        seeds=runs,
        n=n,
        chance=counted.chance,
        before=counted.before,
        after=statistics.fmean(counted.after),
        lost_seen=counted.lost_seen,
        won_seen=counted.won_seen,
        **contrasts,
    )
