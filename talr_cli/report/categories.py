"""Domain scores by category, where the data set has categories: of a study, and of one run.

Scores by calculator stand in results.json alone: they are too many for a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from talr_cli.report.cells import Cells, Column, named, pair_columns
from talr_cli.report.pairs import Results, method_label
from talr_cli.report.table import estimate_cell, estimate_of


def categories_cells(results: Sequence[Results]) -> Cells | None:
    """One line a run, one column a category; None where there are none."""
    scored = [(one, _categories(one)) for one in results if _categories(one)]
    names = sorted({name for _, categories in scored for name in categories})
    if not names:
        return None
    pairs = {(one["run"]["model"], one["run"]["dataset"]) for one, _ in scored}
    columns = [
        Column("id"),
        *pair_columns(len(pairs)),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("seed", "seed"),
        *(Column(name, name, number=True, error=f"{name}_stderr") for name in names),
    ]
    lines = []
    for one, categories in scored:
        run = one["run"]
        lines.append(
            [
                *(named(run[key]) for key in ("id", "model", "dataset")),
                named(method_label(one)),
                named(run["lr"]),
                named(run["seed"]),
                *(estimate_cell("domain", estimate_of(categories.get(name))) for name in names),
            ]
        )
    return Cells(columns, lines)


def rich_categories(one: Results) -> Table | None:
    """One line a category, for the terminal; None where there are none."""
    categories = _categories(one)
    if not categories:
        return None
    table = Table("category")
    table.add_column("items", justify="right")
    table.add_column("domain", justify="right")
    for name, score in {**categories, "all": one["domain"]}.items():
        table.add_row(name, str(score["n"]), estimate_cell("domain", estimate_of(score)).text)
    return table


def _categories(one: Results) -> dict[str, dict]:
    return (one["domain"] or {}).get("categories", {})
