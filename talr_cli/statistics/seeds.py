"""Several seeds of one setting, and what they score together.

A standard deviation over seeds says how far another seed may lie; the standard error of a run says
how far other test items may lie. Knows results only, which name a method and an lr, and have a
hash of every other setting, if they are not older than it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.printable import rate_text
from talr_cli.statistics.estimates import Estimate, estimate_of, mean_and_deviation
from talr_cli.statistics.pairs import (
    Results,
    is_base,
    measured_alike,
    method_label,
    run_label,
    share_trained,
)


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one method and lr, measured alike, that differ in their seed only.

    `share` of their steps were made when the weights were taken; `setting` is a hash of all else
    that they were made with, None of results that do not have it.
    """

    label: str
    lr: float | None
    share: float
    runs: list[Results]
    setting: str | None = None

    def estimate(self, part: str) -> Estimate | None:
        """Mean and standard deviation of the domain or general score; one run: its own error."""
        scored = [found for one in self.runs if (found := estimate_of(one[part]))]
        if len(scored) == 1:
            return scored[0]
        return mean_and_deviation([estimate.score for estimate in scored])


def seed_groups(runs: Sequence[Results]) -> list[SeedGroup]:
    """The tuned runs of one model and dataset, in the order of the table.

    Where a seed occurs twice, the runs differ in a setting that these results do not have: each of
    them is then a group of its own.
    """
    groups: list[list[Results]] = []
    for one in runs:
        if not is_base(one):
            home = next(
                (group for group in groups if all(_belongs(one, other) for other in group)), None
            )
            if home is None:
                groups.append([one])
            else:
                home.append(one)
    found = []
    for group in groups:
        distinct = len({one["run"]["seed"] for one in group}) == len(group)
        for members in [group] if distinct else [[one] for one in group]:
            first = group[0]
            found.append(
                SeedGroup(
                    method_label(first),
                    _rate(first),
                    share_trained(first),
                    members,
                    setting_of(group),
                )
            )
    return found


def setting_of(runs: Sequence[Results]) -> str | None:
    """The hash of what runs of one setting were made with; None where none of them has it."""
    return next((one["setting"] for one in runs if one.get("setting")), None)


def only_settings(groups: Sequence[SeedGroup]) -> dict[tuple[str, float, float], SeedGroup]:
    """{(method, rate, share): setting}, where there is one alone: of others a name says nothing."""
    times = Counter(map(_place, groups))
    return {
        (one.label, one.lr, one.share): one
        for one in groups
        if one.lr is not None and times[_place(one)] == 1
    }


def ambiguous_lines(runs: Sequence[Results]) -> list[str]:
    """A line for each method and rate that `only_settings` leaves out."""
    times = Counter(map(_place, whole_trainings(runs)))
    return [
        f"{label} at lr {rate_text(lr)}: its runs are of {count} settings, which differ in more "
        "than the seed"
        for (label, lr, _), count in times.items()
        if lr is not None and count > 1
    ]


def _place(group: SeedGroup) -> tuple[str, float | None, float]:
    return group.label, group.lr, group.share


def whole_trainings(runs: Sequence[Results]) -> list[SeedGroup]:
    """Of `seed_groups` those that were trained to their end."""
    return [one for one in seed_groups(runs) if one.share == 1]


def _belongs(one: Results, other: Results) -> bool:
    return (
        run_label(one) == run_label(other)
        and _rate(one) == _rate(other)
        and len({each["setting"] for each in (one, other) if each.get("setting")}) < 2
        and all(
            measured_alike(one, other, part) or not one[part] or not other[part]
            for part in ("domain", "general")
        )
    )


def _rate(one: Results) -> float | None:
    """lr as it is written: rates that differ in the last bit, as of a search, are one."""
    lr = one["run"]["lr"]
    return None if lr is None else float(rate_text(lr))
