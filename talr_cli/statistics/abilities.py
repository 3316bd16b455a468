"""Which abilities were lost: items right before and wrong after, and the reverse, minus guessing.

A mean score hides that one fact was forgotten while another was learned. So transitions are
counted: 1->0 is forgetting, 0->1 the reverse (Harmon et al. 2025, arXiv 2510.17776). That paper
subtracts the transitions of independent guesses. But models repeat most of their guesses, so less
has to be subtracted. The correction here is ours. Suppose an item has k choices and is guessed both
times. If the guess changes, each ordered pair of choices is equally likely: k-1 pairs go from the
right choice to a wrong one, and (k-1)(k-2) from one wrong choice to another. The second kind can be
observed: let D be the share of items that are wrong both times with different answers. Also, an
item that was known before and is guessed now is still right in one of k cases. So if a share F of
the items is observed to go 1->0, then

    known before, guessed after = (F - D / (k-2)) k / (k-1)

and likewise for 0->1. This is a mean over items, each with its own k, and can be below 0 by chance.
The difference of the two is the change of the mean score times k / (k-1). If training teaches other
wrong answers, D rises too, and the estimate is too small. With two choices D cannot be observed,
and generated answers are not guesses: in both cases F is used as it is. Knows results of one group
and the chosen answers; does not know where these are read.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, measured_alike, parts_of, run_label, section_of
from talr_cli.statistics.seeds import seed_groups
from talr_cli.statistics.settings import informative, pooled_variance, replicated


@dataclass(frozen=True)
class Guesses:
    """The answers that may be guesses, as they were chosen among given ones.

    Attributes:
        choices: {part: {item: number of choices}}; 1 for a generated answer.
        moved: {run id: {part: items that the run and the base model both have wrong, with different
            answers}}; parts without this information are missing.
    """

    choices: Mapping[str, Mapping[str, int]]
    moved: Mapping[str, Mapping[str, frozenset[str]]]


@dataclass(frozen=True)
class Ability:
    """The transitions of the items of `domain` or `general/TASK` in a setting, averaged over seeds.

    Attributes:
        label, lr, seeds: The setting, as `run_label` names it, and its number of runs.
        n: Number of items.
        chance: Mean of 1/k over the items, 0 for a generated answer; None if the choices are not
            known, so that nothing is subtracted.
        before, after: Shares of right items, not corrected for guessing.
        change: `after` minus `before`.
        lost, won: Shares of items, corrected for guessing; `lost_seen`, `won_seen`: as counted.
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

    Errors are over items, and over runs if some setting has several seeds.
    """
    base = group.base
    if base is None:
        return []
    settings = seed_groups(group.runs)
    found = []
    for part in parts_of(base):
        known = [
            (setting, transitions)
            for setting in settings
            if (transitions := _transitions(base, setting.runs, part, guesses)) is not None
        ]
        several = {id(one) for one in replicated([setting for setting, _ in known])[0]}
        between = _run_variances([one for setting, one in known if id(setting) in several])
        found += [
            _ability(part, run_label(setting.runs[0]), setting.lr, transitions, between)
            for setting, transitions in known
        ]
    return found


def abilities_of(base: Results, one: Results, guesses: Guesses) -> list[Ability]:
    """As `abilities`, for a single run: errors are over items only."""
    lr = one["run"]["lr"]
    return [
        _ability(part, run_label(one), lr, transitions, None)
        for part in parts_of(base)
        if (transitions := _transitions(base, [one], part, guesses)) is not None
    ]


@dataclass(frozen=True)
class _Transitions:
    """The transitions of a setting; the quantities are `change`, `lost` and `won` of `Ability`.

    Attributes:
        values: {quantity: [runs, items]}.
        bounds: {quantity: the largest absolute value of an item}.
    """

    values: Mapping[str, np.ndarray]
    before: float
    after: Sequence[float]  # of each run
    chance: float | None
    bounds: Mapping[str, float]
    lost_seen: float
    won_seen: float


def _transitions(
    base: Results, runs: Sequence[Results], part: str, guesses: Guesses
) -> _Transitions | None:
    """None if the items are unknown, not the same, or have scores other than 0 and 1."""
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
    return _Transitions(
        values={
            "change": right - before,
            "lost": factor * (lost - guessed),
            "won": factor * (won - guessed),
        },
        before=float(before.mean()),
        after=right.mean(axis=1).tolist(),
        chance=float(np.where(k > 1, 1 / k, 0.0).mean()) if is_known else None,
        bounds={"change": 1.0, "lost": float(factor.mean()), "won": float(factor.mean())},
        lost_seen=float(lost.mean()),
        won_seen=float(won.mean()),
    )


def _run_variances(settings: Sequence[_Transitions]) -> dict[str, tuple[float, int]] | None:
    """{quantity: (variance between runs, degrees of freedom)}; None with one seed per setting.

    Estimated as in `settings.run_variances`, so that a change has the same error in all tables.
    """
    used = [settings[index] for index in informative([one.after for one in settings])]
    keys = used[0].values if used else ()
    found = {key: pooled_variance([one.values[key].mean(axis=1) for one in used]) for key in keys}
    return {key: one for key, one in found.items() if one is not None} or None


def _ability(
    part: str,
    label: str,
    lr: float | None,
    transitions: _Transitions,
    between: Mapping[str, tuple[float, int]] | None,
) -> Ability:
    runs, n = transitions.values["change"].shape
    contrasts = {}
    for key, values in transitions.values.items():
        of_items = values.mean(axis=0)
        # One more item is added: a task without transitions would otherwise have no error.
        extra = transitions.bounds[key] ** 2 / n / (n - 1)
        variance, df = between[key] if between is not None else (0.0, 1)
        contrasts[key] = Contrast(
            estimate=float(of_items.mean()),
            item_variance=float(of_items.var(ddof=1)) / n + extra,
            run_variance=variance / runs if between is not None else None,
            df=df,
            n=n,
        )
    return Ability(
        part=part,
        label=label,
        lr=lr,
        seeds=runs,
        n=n,
        chance=transitions.chance,
        before=transitions.before,
        after=statistics.fmean(transitions.after),
        lost_seen=transitions.lost_seen,
        won_seen=transitions.won_seen,
        **contrasts,
    )
