"""Several seeds of one setting: mean and standard deviation of their scores.

A standard deviation over seeds says how far another seed may lie; the standard error of a run says
how far other test items may lie. Knows results only, which name a method and an lr but no other
setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_columns
from talr_cli.report.tables.table import (
    COLUMNS,
    Estimate,
    Row,
    estimate_cell,
    estimate_of,
    study_rows,
)
from talr_cli.statistics.pairs import Results, group_by_pair, is_base, measured_alike, method_label


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one method and lr, measured alike, that differ in their seed only."""

    label: str
    lr: float | None
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
            found.append(SeedGroup(method_label(group[0]), group[0]["run"]["lr"], members))
    return found


def mean_and_deviation(values: Sequence[float]) -> Estimate | None:
    """Mean and sample standard deviation (n - 1), which one value does not have."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), deviation)


def seeds_cells(results: Sequence[Results]) -> Cells | None:
    """One line for each method and lr; None where nothing was run with several seeds."""
    pairs = group_by_pair(results)
    lines, several = [], False
    for (model, dataset), runs in pairs.items():
        rows = {id(one): row for one, row in zip(runs, study_rows(runs), strict=True)}
        for group in seed_groups(runs):
            several = several or len(group.runs) > 1
            members = [rows[id(one)] for one in group.runs]
            lines.append(
                [
                    named(model),
                    named(dataset),
                    Cell(group.label, group.label),
                    named(group.lr),
                    Cell(str(len(members)), len(members)),
                    *(_cell(key, members) for key in COLUMNS),
                ]
            )
    columns = [
        *pair_columns(len(pairs)),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("seeds", "seeds", number=True),
        *(Column(key, title, number=True, error=f"{key}_sd") for key, title in COLUMNS.items()),
    ]
    return Cells(columns, lines) if several else None


def _cell(key: str, members: Sequence[Row]) -> Cell:
    """Of the seeds that have this estimate; how many, where not all have it."""
    estimates = [row.estimates[key] for row in members]
    values = [estimate.score for estimate in estimates if estimate is not None]
    cell = estimate_cell(key, mean_and_deviation(values))
    if not values or len(values) == len(members):
        return cell
    return Cell(f"{cell.text} (of {len(values)})", cell.value, cell.error)


def _belongs(one: Results, other: Results) -> bool:
    return (
        method_label(one) == method_label(other)
        and one["run"]["lr"] == other["run"]["lr"]
        and all(
            measured_alike(one, other, part) or not one[part] or not other[part]
            for part in ("domain", "general")
        )
    )
