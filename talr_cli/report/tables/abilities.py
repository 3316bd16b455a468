"""The tables of lost abilities: a row for each task, for every setting or for a single run."""

from collections.abc import Sequence

from talr_cli.report.figures.looks import ordered
from talr_cli.report.tables.cells import Cell, Cells, Column, fixed, named, pair_cells, pair_columns
from talr_cli.statistics.abilities import Ability
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import Group

LEGEND = (
    "lost: share of the items that were right before and are wrong after (1->0); won: the reverse "
    "(0->1). An unchanged mean may hide much of both (Harmon et al. 2025, arXiv 2510.17776). Both "
    "are corrected for guessing: (F - D / (k-2)) k / (k-1), where F is the observed share of items "
    "that flipped, D the share of items that are wrong both times with different answers, and k "
    "the number of choices; chance is the mean of 1/k. This form is ours: a new guess moves as "
    "often from the right answer to a given wrong one as between two wrong ones. It can be below 0 "
    "by chance. Without a correction it is F: with two choices, for generated answers (chance 0), "
    "and if samples/ does not have the chosen answers (chance –). before, after: share of right "
    "items, not corrected. 95% intervals in brackets, over items and, if a setting has several "
    "seeds, over runs. ≈ 0: not distinguishable from noise."
)


def contrast_columns(key: str, title: str) -> tuple[Column, Column, Column]:
    """The columns of `contrast_cells`."""
    return Column(key, title, number=True), Column(f"{key}_low"), Column(f"{key}_high")


_COLUMNS = (
    Column("before", "before", number=True),
    Column("after", "after", number=True),
    *contrast_columns("change", "change"),
    *contrast_columns("lost", "lost 1->0"),
    *contrast_columns("won", "won 0->1"),
    Column("n", "items", number=True, spare=True),
    Column("chance", "chance", number=True, spare=True),
    Column("lost_seen"),
    Column("won_seen"),
)


def abilities_cells(found: Sequence[tuple[Group, Sequence[Ability]]]) -> Cells | None:
    """A row for each task and setting; None if there are none."""
    lines = [
        [*pair_cells(group), _task(one), *map(named, (one.label, one.lr, one.seeds)), *_line(one)]
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
    """A row for each task of one run; None if there are none."""
    lines = [[_task(one), *_line(one)] for one in found]
    return Cells([Column("task", "task"), *_COLUMNS], lines) if lines else None


def _in_order(found: Sequence[Ability]) -> list[Ability]:
    """Sorted by task, method (in the order of legends), rate and point of the training."""
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
    return [
        fixed(one.before),
        fixed(one.after),
        *contrast_cells(one.change),
        *contrast_cells(one.lost, signed=False),
        *contrast_cells(one.won, signed=False),
        named(one.n),
        fixed(one.chance, digits=2),
        Cell(value=one.lost_seen),
        Cell(value=one.won_seen),
    ]


def contrast_cells(one: Contrast, signed: bool = True) -> list[Cell]:
    """An estimate with its 95% interval, and both ends of it for programs.

    Args:
        signed: True for a change, which is shown with its sign and maybe ≈ 0; False for a share.
    """
    low, high = one.interval()
    text = one.change_text() if signed else f"{one.estimate:z.3f} [{low:z.3f}, {high:z.3f}]"
    return [Cell(text, one.estimate), Cell(value=low), Cell(value=high)]
