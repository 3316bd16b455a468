"""Domain scores by category, for a study and for one run, if the dataset has categories.

Scores by calculator are only in results.json, as there are too many for a table.
"""

from collections.abc import Sequence

from talr_cli.report.tables.cells import Cells, Column, named, pair_cells, pair_columns
from talr_cli.report.tables.table import estimate_cell
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, run_label


def categories_cells(groups: Sequence[Group]) -> Cells | None:
    """A row for each run, a column for each category; None without categories."""
    scored = [
        (group, one, categories)
        for group in groups
        for one in group.runs
        if (categories := _categories(one))
    ]
    names = sorted({name for *_, categories in scored for name in categories})
    if not names:
        return None
    columns = [
        Column("id"),
        *pair_columns(len({id(group) for group, *_ in scored})),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("seed", "seed"),
        *(Column(name, name, number=True, error=f"{name}_stderr") for name in names),
    ]
    lines = [
        [
            named(one["run"]["id"]),
            *pair_cells(group),
            *map(named, (run_label(one), one["run"]["lr"], one["run"]["seed"])),
            *(estimate_cell("domain", estimate_of(categories.get(name))) for name in names),
        ]
        for group, one, categories in scored
    ]
    return Cells(columns, lines)


def category_cells(one: Results) -> Cells | None:
    """A row for each category of one run; None without categories."""
    categories = _categories(one)
    if not categories:
        return None
    columns = [
        Column("category", "category"),
        Column("n", "items", number=True),
        Column("domain", "domain", number=True, error="domain_stderr"),
    ]
    lines = [
        [named(name), named(score["n"]), estimate_cell("domain", estimate_of(score))]
        for name, score in {**categories, "all": one["domain"]}.items()
    ]
    return Cells(columns, lines)


def _categories(one: Results) -> dict[str, dict]:
    return (one["domain"] or {}).get("categories", {})
