"""The table of two runs: both scores of each part, and whether they differ by more than noise."""

from talr_cli.report.tables.cells import Cell, Cells, Column, fixed, p_cell
from talr_cli.report.tables.table import estimate_cell
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.paired import Difference, UnpairedError, difference
from talr_cli.statistics.pairs import PARTS, Results, section_of, tasks_of
from talr_cli.statistics.power import CORRELATION, detectable_difference_of

LEGEND = (
    "B - A on the same items, with the 95% interval and the two-sided p of a paired bootstrap. "
    "exact p: of McNemar's exact test; for several tasks and for partial credit, of a permutation "
    "test of signs. won: items on which B scored higher; lost: lower. ≈ 0: not distinguishable "
    "from noise at the 5% level, which takes both p. general: the unweighted mean of the tasks. "
    "shows: the smallest difference that this many items detect with 80% power, at A's score and "
    f"a correlation of answers of {CORRELATION:g}. A and B are these checkpoints: another seed of "
    "the same method is another model."
)
_COLUMNS = (
    Column("part", "part"),
    Column("a", "A", number=True, error="a_stderr"),
    Column("b", "B", number=True, error="b_stderr"),
    Column("difference", "B - A", number=True),
    Column("interval", "95% interval", number=True),
    Column("p", "p", number=True),
    Column("mcnemar", "exact p", number=True, spare=True),
    Column("n", "items", number=True, spare=True),
    Column("won", "won", number=True, spare=True),
    Column("lost", "lost", number=True, spare=True),
    Column("shows", "shows", number=True),
    Column("verdict", "verdict"),
)


def comparison_cells(before: Results, after: Results) -> Cells:
    """A row for each part that a run was scored on, with the reason if it is not comparable."""
    parts = dict.fromkeys([*PARTS, *tasks_of(before), *tasks_of(after)])
    scored = [part for part in parts if section_of(before, part) or section_of(after, part)]
    return Cells(_COLUMNS, [_line(before, after, part) for part in scored])


def _line(before: Results, after: Results, part: str) -> list[Cell]:
    sections = (section_of(one, part) for one in (before, after))
    scores = [estimate_cell(part, estimate_of(section)) for section in sections]
    name = Cell(part.removeprefix("general/"), part)
    try:
        found = difference(before, after, part)
    except UnpairedError as reason:
        why = f"not comparable: {reason}"
        return [name, *scores, *[Cell()] * 8, Cell(why, why)]
    shows = fixed(detectable_difference_of(section_of(before, part)))
    verdict = ("differs", "differs") if found.is_distinguishable else ("≈ 0", "noise")
    return [name, *scores, *_difference_cells(found), shows, Cell(*verdict)]


def _difference_cells(found: Difference) -> list[Cell]:
    exact = found.sign_flip if found.mcnemar is None else found.mcnemar
    return [
        Cell(f"{found.difference:+z.3f}", found.difference),
        Cell(f"{found.low:+z.3f} .. {found.high:+z.3f}", [found.low, found.high]),
        p_cell(found.p),
        Cell(p_cell(exact).text, found.mcnemar),
        *(Cell(str(count), count) for count in (found.n, found.won, found.lost)),
    ]
