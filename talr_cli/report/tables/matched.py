"""The table of methods at an equal domain score, as `statistics.matched` compares them."""

from collections.abc import Sequence

from talr_cli.report.tables.cells import (
    Cell,
    Cells,
    Column,
    fixed,
    named,
    p_cell,
    pair_cells,
    pair_columns,
)
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import GAIN_SHARE, REFERENCE, Matched

LEGEND = (
    f"Each method against {REFERENCE} where both first reach the same gain on the domain "
    f"({GAIN_SHARE:.0%} of the smaller of their largest gains), interpolated between the base "
    "model, the learning rates and the points along each training that both methods have (or, if "
    "they share fewer than two rates, those that each of them has). Intervals cover items and "
    "seeds, include the error of the interpolation, and hold for all methods together in 95% of "
    "studies; p is adjusted in the same way. With one seed per setting, errors are those of these "
    "checkpoints, and methods are undecided."
)
MISSING = (
    f"Not compared at an equal domain score: this takes the base model, {REFERENCE} and another "
    "method, both of which gain on the domain, at two learning rates or at points along a training "
    "(score_at), on the same items."
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


def matched_cells(found: Sequence[tuple[Group, Sequence[Matched]]]) -> Cells | None:
    """A row for each method; None if none can be compared.

    Args:
        found: Each group with what `matched` returns for it.
    """
    rows = [[*pair_cells(group), *_line(one)] for group, methods in found for one in methods]
    return Cells([*pair_columns(len(found)), *_COLUMNS], rows) if rows else None


def _line(one: Matched) -> list[Cell]:
    return [
        named(one.method),
        *map(fixed, (one.domain, one.reference, one.general)),
        Cell(one.text, one.difference),
        Cell(value=one.low),
        Cell(value=one.high),
        p_cell(one.p),
        named(one.verdict),
        named(one.curves),
    ]
