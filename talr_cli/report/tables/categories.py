"""Domain scores by category, where the dataset has categories: of a study, and of one run.

Scores by calculator are in results.json only: they are too many for a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.report.tables.cells import Cells, Column, named, pair_cells, pair_columns
from talr_cli.report.tables.table import estimate_cell
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, run_label


def categories_cells(groups: Sequence[Group]) -> Cells | None:
    """One line a run, one column a category; None without categories."""
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
    lines = []
    for group, one, categories in scored:
        run = one["run"]
        lines.append(
            [
                named(run["id"]),
                *pair_cells(group),
                named(run_label(one)),
                named(run["lr"]),
                named(run["seed"]),
                *(estimate_cell("domain", estimate_of(categories.get(name))) for name in names),
            ]
        )
    return Cells(columns, lines)


def category_cells(one: Results) -> Cells | None:
    """The categories of one run, a line each; None without categories."""
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
