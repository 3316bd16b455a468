"""The table of seeds: mean and standard deviation of the scores of each setting."""

from collections.abc import Sequence

from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
from talr_cli.report.tables.table import COLUMNS, Row, estimate_cell
from talr_cli.statistics.estimates import mean_and_deviation
from talr_cli.statistics.pairs import run_label
from talr_cli.statistics.seeds import seed_groups


def seeds_cells(rows: Sequence[Row]) -> Cells | None:
    """A row for each setting of `study_rows`; None if none has several seeds."""
    lines, several = [], False
    groups = {id(row.group): row.group for row in rows}
    by_run = {id(row.results): row for row in rows}
    for group in groups.values():
        for seeds in seed_groups(group.runs):
            several = several or len(seeds.runs) > 1
            members = [by_run[id(one)] for one in seeds.runs]
            lines.append(
                [
                    *pair_cells(group),
                    Cell(run_label(seeds.runs[0]), seeds.label),
                    named(seeds.lr),
                    named(seeds.share),
                    Cell(str(len(members)), len(members)),
                    *(_cell(key, members) for key in COLUMNS),
                ]
            )
    columns = [
        *pair_columns(len(groups)),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("share"),
        Column("seeds", "seeds", number=True),
        *(Column(key, title, number=True, error=f"{key}_sd") for key, title in COLUMNS.items()),
    ]
    return Cells(columns, lines) if several else None


def _cell(key: str, members: Sequence[Row]) -> Cell:
    """Mean and standard deviation over the seeds with this estimate; their number if not all."""
    estimates = [row.estimates[key] for row in members]
    values = [estimate.score for estimate in estimates if estimate is not None]
    cell = estimate_cell(key, mean_and_deviation(values))
    if not values or len(values) == len(members):
        return cell
    return Cell(f"{cell.text} (of {len(values)})", cell.value, cell.error)
