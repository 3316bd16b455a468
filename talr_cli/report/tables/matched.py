"""The table of methods at an equal domain score, as `statistics.matched` compares them."""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE, SHARE, Matched, matched

LEGEND = (
    f"Each method against {REFERENCE} where both first have gained the same on the domain "
    f"({SHARE:.0%} of what the lesser of the two gains), interpolated between the base model, the "
    "learning rates and, where there are any, the points along each training that both have; where "
    "they share fewer than two rates, those of each. Intervals are over items and seeds, are wider "
    "by what curves may bend between runs, and pay for the number of methods: all are right at "
    "once in 95%, and p is adjusted likewise. With one seed of every setting errors are of these "
    "checkpoints and methods are left undecided."
)
_COLUMNS = (
    Column("method", "method"),
    Column("domain", "at domain score", number=True),
    Column("reference", f"general, {REFERENCE}", number=True),
    Column("general", "general, method", number=True),
    Column("difference", "difference", number=True),
    Column("low", number=True),
    Column("high", number=True),
    Column("p", "p", number=True),
    Column("verdict", "verdict"),
    Column("curves", "along"),
)


def matched_cells(groups: Sequence[Group]) -> Cells | None:
    """A line for each method; None where none can be matched."""
    rows = [[*pair_cells(group), *_cells(one)] for group in groups for one in matched(group)]
    return Cells([*pair_columns(len(groups)), *_COLUMNS], rows) if rows else None


def _cells(one: Matched) -> list[Cell]:
    return [
        named(one.method),
        Cell(f"{one.domain:.3f}", one.domain),
        Cell(f"{one.reference:.3f}", one.reference),
        Cell(f"{one.general:.3f}", one.general),
        Cell(one.text, one.difference),
        Cell(f"{one.low:z.3f}", one.low),
        Cell(f"{one.high:z.3f}", one.high),
        Cell("< 0.001" if one.p < 0.001 else f"{one.p:.3f}", one.p),
        named(one.verdict),
        named(one.curves),
    ]
