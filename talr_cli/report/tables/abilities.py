"""The tables of which abilities were lost: a line for each task, of each setting or of one run."""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.report.figures.looks import ordered
from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
from talr_cli.statistics.abilities import Ability
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import Group

LEGEND = (
    "lost: share of the items that were right before and are wrong after (1->0); won: the "
    "reverse (0->1); a mean that stays may hide much of both (after Harmon et al. 2025, arXiv "
    "2510.17776). Both are less what guessing makes: (F - D / (k-2)) k / (k-1), where F is the "
    "share of items that flipped as it is seen, D that of items wrong both times with different "
    "answers, k the number of choices, of which chance is one. That form is ours: a guess that "
    "is drawn anew moves as often from the right answer to a wrong one as between two wrong "
    "ones. It can be below 0 by chance. With two choices, with answers that are written (chance "
    "0) and where samples/ does not say what was chosen (chance –) it is F. before, after: "
    "items right, as they are. 95% intervals in brackets, over items and, where a setting has "
    "several seeds, over runs. ≈ 0: not told from noise."
)
_COLUMNS = (
    Column("before", "before", number=True),
    Column("after", "after", number=True),
    Column("change", "change", number=True),
    Column("change_low"),
    Column("change_high"),
    Column("lost", "lost 1->0", number=True),
    Column("lost_low"),
    Column("lost_high"),
    Column("won", "won 0->1", number=True),
    Column("won_low"),
    Column("won_high"),
    Column("n", "items", number=True, spare=True),
    Column("chance", "chance", number=True, spare=True),
    Column("lost_seen"),
    Column("won_seen"),
)


def abilities_cells(found: Sequence[tuple[Group, Sequence[Ability]]]) -> Cells | None:
    """A line for each task and setting; None where there are none."""
    lines = [
        [
            *pair_cells(group),
            _task(one),
            named(one.label),
            named(one.lr),
            named(one.seeds),
            *_line(one),
        ]
        for group, known in found
        for one in _in_order(known)
    ]
    columns = [
        *pair_columns(len(found)),
        Column("task", "task"),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("seeds", "seeds", number=True),
        *_COLUMNS,
    ]
    return Cells(columns, lines) if lines else None


def of_one_cells(found: Sequence[Ability]) -> Cells | None:
    """A line for each task of one run; None where there are none."""
    lines = [[_task(one), *_line(one)] for one in found]
    return Cells([Column("task", "task"), *_COLUMNS], lines) if lines else None


def _in_order(found: Sequence[Ability]) -> list[Ability]:
    """By task, then method (in the order of legends), rate and point of the training."""
    tasks = list(dict.fromkeys(one.part for one in found))
    methods = ordered({_method(one) for one in found})
    return sorted(
        found,
        key=lambda one: (
            tasks.index(one.part),
            methods.index(_method(one)),
            one.lr or 0.0,
            float(one.label.partition(" @")[2] or 1),
        ),
    )


def _method(one: Ability) -> str:
    return one.label.partition(" @")[0]


def _task(one: Ability) -> Cell:
    return Cell(one.part.removeprefix("general/"), one.part)


def _line(one: Ability) -> list[Cell]:
    chance = Cell() if one.chance is None else Cell(f"{one.chance:.2f}", one.chance)
    return [
        Cell(f"{one.before:.3f}", one.before),
        Cell(f"{one.after:.3f}", one.after),
        *contrast_cells(one.change),
        *contrast_cells(one.lost, signed=False),
        *contrast_cells(one.won, signed=False),
        Cell(str(one.n), one.n),
        chance,
        Cell(value=one.lost_seen),
        Cell(value=one.won_seen),
    ]


def contrast_cells(one: Contrast, signed: bool = True) -> list[Cell]:
    """An estimate with its 95% interval, and both ends for programs.

    Args:
        signed: Whether it is a change, which may be ≈ 0, and not a share.
    """
    low, high = one.interval()
    text = one.change_text() if signed else f"{one.estimate:z.3f} [{low:z.3f}, {high:z.3f}]"
    return [Cell(text, one.estimate), Cell(value=low), Cell(value=high)]
