"""Runs of one setting that differ only in their seed, and their mean score.

The standard deviation over seeds says how much another seed may differ; the standard error of a run
says how much its score may differ on other test items. Knows results only: they have the method,
the learning rate and a hash of all other values, `setting`, which results of earlier versions lack.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.printable import rate_text
from talr_cli.statistics.estimates import Estimate, estimate_of, mean_and_deviation
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    is_base,
    measure,
    measured_alike,
    method_label,
    rows_changed,
    rows_of,
    run_label,
    share_trained,
)


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one method and lr, measured in the same way, that differ only in their seed.

    Attributes:
        label: As `method_label`.
        share: As `share_trained`.
        setting: The hash of all other values; None if it is not known.
    """

    label: str
    lr: float | None
    share: float
    runs: list[Results]
    setting: str | None = None

    def estimate(self, part: str) -> Estimate | None:
        """Mean and standard deviation of the domain or general score; for one run its own error."""
        scored = [found for one in self.runs if (found := estimate_of(one[part]))]
        if len(scored) == 1:
            return scored[0]
        return mean_and_deviation([estimate.score for estimate in scored])


def seed_groups(runs: Sequence[Results]) -> list[SeedGroup]:
    """The fine-tuned runs of one model and dataset by setting, in the order of the runs.

    If a seed occurs twice, the runs differ in something that is not recorded, and each of them
    becomes a group of its own.
    """
    groups: list[list[Results]] = []
    # Of each group the kinds of its runs: only one of a kind has to be compared.
    named: dict[tuple[str, float | None], list[tuple[list[Results], dict[tuple, Results]]]] = {}
    for one in runs:
        if not is_base(one):
            kind = one.get("setting"), rows_of(one), *(measure(one, part) for part in PARTS)
            namesakes = named.setdefault((run_label(one), _rounded_rate(one)), [])
            for group, kinds in namesakes:
                if all(kind == own or _is_same_setting(one, other) for own, other in kinds.items()):
                    group.append(one)
                    kinds.setdefault(kind, one)
                    break
            else:
                groups.append([one])
                namesakes.append((groups[-1], {kind: one}))
    found = []
    for group in groups:
        first = group[0]
        key = method_label(first), _rounded_rate(first), share_trained(first)
        distinct = len({one["run"]["seed"] for one in group}) == len(group)
        members = [group] if distinct else [[one] for one in group]
        found += [SeedGroup(*key, each, setting_of(group)) for each in members]
    return found


def setting_of(runs: Sequence[Results]) -> str | None:
    """The hash of the setting that these runs share; None if none of them has it."""
    return next((one["setting"] for one in runs if one.get("setting")), None)


def curves(settings: Sequence[SeedGroup]) -> list[list[SeedGroup]]:
    """The settings of each method, grouped into those that differ only in rate and share of steps.

    A line may join the settings of such a curve. Methods come in the order of their first setting,
    and the longest curve of a method comes first. A missing `setting` matches any other.
    """
    by_method: dict[str, list[SeedGroup]] = {}
    for one in settings:
        by_method.setdefault(one.label, []).append(one)
    found: list[list[SeedGroup]] = []
    for of_method in by_method.values():
        several = len({one.setting for one in of_method} - {None}) > 1
        alike: dict[str | None, list[SeedGroup]] = {}
        for one in of_method:
            alike.setdefault(one.setting if several else None, []).append(one)
        found += sorted(alike.values(), key=len, reverse=True)
    return found


def unambiguous_settings(groups: Sequence[SeedGroup]) -> dict[tuple[str, float, float], SeedGroup]:
    """{(method, rate, share): setting}, for the keys that stand for exactly one setting.

    Only the longest curve of a method counts, and none if several are the longest.
    """
    times = Counter(map(_name, groups))
    return {
        (one.label, one.lr, one.share): one
        for of_method in _by_method(groups).values()
        for one in _longest(of_method)
        if one.lr is not None and times[_name(one)] == 1
    }


def _by_method(groups: Sequence[SeedGroup]) -> dict[str, list[list[SeedGroup]]]:
    found: dict[str, list[list[SeedGroup]]] = {}
    for curve in curves(groups):
        found.setdefault(curve[0].label, []).append(curve)
    return found


def _longest(of_method: Sequence[list[SeedGroup]]) -> list[SeedGroup]:
    first, *others = of_method
    return [] if others and len(others[0]) == len(first) else first


def ambiguous_lines(runs: Sequence[Results]) -> list[str]:
    """A line for each method, or rate of a method, that `unambiguous_settings` leaves out."""
    settings = final_settings(runs)
    times = Counter(map(_name, settings))
    lines = [
        f"{label} at lr {rate_text(lr)}: its runs are of {count} settings, which differ in more "
        "than the seed" + _in_data([one for one in settings if _name(one) == (label, lr, share)])
        for (label, lr, share), count in times.items()
        if lr is not None and count > 1
    ]
    for label, of_method in _by_method(settings).items():
        every = [one for curve in of_method for one in curve]
        if len(of_method) > 1 and len({one.lr for one in every}) > 1:
            kept = len(_longest(of_method)) or "none"
            lines.append(
                f"{label}: its rates are of {len(of_method)} settings, which differ in more than "
                f"rate and seed{_in_data(every)}; compared (those of one setting): {kept}"
            )
    return lines


def _in_data(settings: Sequence[SeedGroup]) -> str:
    runs = [one for group in settings for one in group.runs]
    known = {one.get("trained_on") for one in runs} - {None}
    differ = len(known) > 1 or any(rows_changed(runs[0], one) for one in runs)
    return ", their training data too" if differ else ""


def _name(group: SeedGroup) -> tuple[str, float | None, float]:
    return group.label, group.lr, group.share


def final_settings(runs: Sequence[Results]) -> list[SeedGroup]:
    """The `seed_groups` at the end of training, without points along it."""
    return [one for one in seed_groups(runs) if one.share == 1]


def _is_same_setting(one: Results, other: Results) -> bool:
    """Whether two runs of one method, rate and share of the steps are of one setting."""
    return (
        len({each["setting"] for each in (one, other) if each.get("setting")}) < 2
        and not rows_changed(one, other)
        and all(
            measured_alike(one, other, part) or not one[part] or not other[part] for part in PARTS
        )
    )


def _rounded_rate(one: Results) -> float | None:
    """The learning rate as it is written, as rates of a search may differ in the last bit."""
    lr = one["run"]["lr"]
    return None if lr is None else float(rate_text(lr))
