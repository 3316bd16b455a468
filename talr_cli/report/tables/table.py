"""The table of a study's runs: scores, changes from the base model, drift.

Changes are paired differences on the same items. Results without the scores of their items are
compared as independent estimates, whose error is an upper bound if answers are correlated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from talr_cli.report.pareto import pareto_front
from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
from talr_cli.statistics.estimates import Estimate, estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.paired import compare_part
from talr_cli.statistics.pairs import (
    Results,
    averaging_alpha,
    has_both_scores,
    measured_alike,
    run_label,
    share_trained,
)

COLUMNS = {
    "domain": "domain",
    "domain_change": "Δ domain",
    "general": "general",
    "general_change": "Δ general",
    "cross_entropy": "drift CE",
    "kl_from_base": "drift KL",
    "domain_kl_from_base": "domain KL",
}
_CHANGES = ("domain_change", "general_change")
_DRIFT = ("cross_entropy", "kl_from_base", "domain_kl_from_base")


@dataclass(frozen=True)
class Row:
    """One run of the table.

    Attributes:
        left_out: Why it is not compared with the other runs of the group; else empty.
        estimates: By the keys of COLUMNS; None for an unknown one.
        on_front: Whether it is on the Pareto front; None if it lacks a score.
    """

    group: Group
    results: Results
    left_out: str
    estimates: dict[str, Estimate | None]
    on_front: bool | None

    @property
    def run(self) -> dict[str, Any]:
        """The section `run` of results.json: method, lr, seed and the like."""
        return self.results["run"]


def study_rows(groups: Sequence[Group]) -> list[Row]:
    """The runs in the order of the table, each compared with the base model of its group."""
    rows = []
    for group in groups:
        front = {id(one) for one in pareto_front(group.runs)}
        for one, left_out in [*((one, "") for one in group.runs), *group.left_out]:
            drift = one["drift"] or {}
            estimates = {
                "domain": estimate_of(one["domain"]),
                "domain_change": _change(one, group.base, "domain"),
                "general": estimate_of(one["general"]),
                "general_change": _change(one, group.base, "general"),
                **{key: estimate_of(drift.get(key)) for key in _DRIFT},
            }
            on_front = None if left_out or not has_both_scores(one) else id(one) in front
            rows.append(Row(group, one, left_out, estimates, on_front))
    return rows


def results_cells(rows: Sequence[Row]) -> Cells:
    """The table of `study_rows`; model, dataset and front are shown only if there are several."""
    titles = dict(COLUMNS)
    if not any(row.estimates["domain_kl_from_base"] for row in rows):
        titles["domain_kl_from_base"] = ""  # earlier versions did not measure it
    columns = [
        Column("id"),
        *pair_columns(len({id(row.group) for row in rows})),
        Column("base"),
        Column("method", "method"),
        Column("alpha"),
        Column("share"),
        Column("lr", "lr"),
        Column("seed", "seed"),
        *(
            Column(key, title, number=True, error=f"{key}_stderr", spare=key in _DRIFT)
            for key, title in titles.items()
        ),
        *(Column(f"{key}_{what}") for key in _CHANGES for what in ("p", "distinguishable")),
        Column("pareto_front", "Pareto" if len(rows) > 1 else "", spare=True),
        Column("left_out"),
    ]
    return Cells(columns, [_line(row) for row in rows])


def _line(row: Row) -> list[Cell]:
    run = row.run
    front = Cell() if row.on_front is None else Cell("yes" if row.on_front else "no", row.on_front)
    return [
        named(run["id"]),
        *pair_cells(row.group),
        named(run["base"]),
        Cell(run_label(row.results), run["method"]),
        named(averaging_alpha(row.results)),
        named(share_trained(row.results)),
        named(run["lr"]),
        named(run["seed"]),
        *(estimate_cell(key, row.estimates[key]) for key in COLUMNS),
        *(cell for key in _CHANGES for cell in _test_cells(row.estimates[key])),
        front,
        named(row.left_out or None),
    ]


def estimate_cell(key: str, estimate: Estimate | None) -> Cell:
    """The cell of an estimate: score ± standard error, and ≈ 0 if it may be noise.

    Args:
        key: One of COLUMNS.
    """
    if estimate is None:
        return Cell()
    sign = "+" if key.endswith("_change") else ""
    digits = 4 if key in _DRIFT else 3  # nats per token are small
    text = f"{estimate.score:{sign}z.{digits}f}"
    if estimate.stderr is not None:
        text += f" ± {estimate.stderr:.{digits}f}"
    if estimate.is_distinguishable is False:
        text += " ≈ 0"
    return Cell(text, estimate.score, estimate.stderr)


def _test_cells(change: Estimate | None) -> list[Cell]:
    if change is None:
        return [Cell(), Cell()]
    return [Cell(value=change.p), Cell(value=change.is_distinguishable)]


def _change(one: Results, base: Results | None, section: str) -> Estimate | None:
    """The difference from the base model; None if they were not measured in the same way."""
    if base is None or base is one or not measured_alike(one, base, section):
        return None
    found = compare_part(base, one, section)
    if found is not None:
        return Estimate(found.difference, found.stderr, found.p, found.is_distinguishable)
    after, before = estimate_of(one[section]), estimate_of(base[section])
    return after - before if after and before else None
