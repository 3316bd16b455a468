"""Several seeds of one setting, and what they score together.

A standard deviation over seeds says how far another seed may lie; the standard error of a run says
how far other test items may lie. Knows results only, which name a method and an lr but no other
setting.
"""

from __future__ import annotations

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

    `share`: of their training's steps, after which the weights were taken.
    """

    label: str
    lr: float | None
    share: float
    runs: list[Results]

    def estimate(self, part: str) -> Estimate | None:
        """Mean and standard deviation of the domain or general score; one run: its own error."""
        scored = [found for one in self.runs if (found := estimate_of(one[part]))]
        if len(scored) == 1:
            return scored[0]
        return mean_and_deviation([estimate.score for estimate in scored])


def seed_groups(runs: Sequence[Results]) -> list[SeedGroup]:
    """The tuned runs of one model and dataset, in the order of the table.

    Where a seed occurs twice, the runs differ in a setting that results do not name: each of them
    is then a group of its own.
    """
    groups: list[list[Results]] = []
    for one in runs:
        if not is_base(one):
            home = next((group for group in groups if _belongs(one, group[0])), None)
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
                SeedGroup(method_label(first), _rate(first), share_trained(first), members)
            )
    return found


def whole_trainings(runs: Sequence[Results]) -> list[SeedGroup]:
    """Of `seed_groups` those that were trained to their end."""
    return [one for one in seed_groups(runs) if one.share == 1]


def _belongs(one: Results, other: Results) -> bool:
    return (
        run_label(one) == run_label(other)
        and _rate(one) == _rate(other)
        and all(
            measured_alike(one, other, part) or not one[part] or not other[part]
            for part in ("domain", "general")
        )
    )


def _rate(one: Results) -> float | None:
    """lr as it is written: rates that differ in the last bit, as of a search, are one."""
    lr = one["run"]["lr"]
    return None if lr is None else float(rate_text(lr))
