"""`talr report`: the results of a study as tables, pictures and a page with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli import progress
from talr_cli.config import composition
from talr_cli.config.commands import ReportConfig
from talr_cli.config.composition import Composed
from talr_cli.printable import printable
from talr_cli.runs.study import scored_runs, study_path
from talr_cli.streams import fold_line

if TYPE_CHECKING:
    from talr_cli.report.study_report import Report, Shipping
    from talr_cli.report.tables.cells import Cells
    from talr_cli.statistics.groups import Group

MAX_ROWS = 24  # the most runs that are printed individually


def main(arguments: Sequence[str]) -> None:
    composition.run("report", report, arguments)


def report(composed: Composed[ReportConfig]) -> None:
    """Read the results of the study's runs, and write report/ into the study's folder."""
    config = composed.config
    runs_dir = Path(config.runs_dir)
    runs = scored_runs(runs_dir, config.study)
    show_report(runs_dir, config.study, runs, config.json, config.claims)


def show_report(
    runs_dir: Path,
    study: str,
    runs: Mapping[Path, dict[str, Any]],
    target: str | None = None,
    claims: bool | None = None,
) -> None:
    """Print the main results of scored runs, and write all of them to the study's report/.

    Args:
        target: The file for `json=`.
        claims: Whether to test the published claims; None: if the runs' configs ask for it.

    Raises:
        UnwritableError: The report cannot be written; the results have been printed.
    """
    from talr_cli.report.as_json import emit, rows_of
    from talr_cli.report.claims.text import as_lines
    from talr_cli.report.provenance import asks_for_claims
    from talr_cli.report.stale import stale_lines
    from talr_cli.report.study_report import write_report
    from talr_cli.report.tables.table import results_cells
    from talr_cli.report.unscored import unscored_lines
    from talr_cli.statistics.groups import comparable, left_out_lines

    groups = comparable(runs.values())
    tested = asks_for_claims(runs) if claims is None else claims
    with progress.work("writing the report"):
        left_out = [*left_out_lines(groups), *unscored_lines(runs)]
        written = write_report(runs, study, study_path(runs_dir, study) / "report", tested)
        cells = results_cells(written.rows)
    headlines, lost = _headlines(groups, written), _lost_abilities(written)

    def show() -> None:
        for line in headlines:
            print(fold_line(printable(line)))
        _print_runs(cells, written)
        for line in [*left_out, *stale_lines(runs)]:
            print(line)
        for title, of_one in lost.items():
            _print_lost(title, written.shipped[title], of_one)
        for line in as_lines(written.findings):
            print(line)
        if written.error is None:
            print(f"report: {written.page}")

    abilities = {
        title: {"run": str(written.shipped[title].run[0]), "tasks": rows_of(of_one)}
        for title, of_one in lost.items()
    }
    content = {
        "headlines": headlines,
        "runs": rows_of(cells),
        "left_out": left_out,
        "abilities": abilities,
        "claims": [asdict(one) for one in written.findings],
        "page": None if written.error else str(written.page),
    }
    emit("report", target, content, show)
    if written.error is not None:
        raise written.error


def _lost_abilities(written: Report) -> dict[str, Cells]:
    """{title of a group: the abilities that the run to ship has lost}, where they are known."""
    from talr_cli.report.tables.abilities import of_one_cells

    lost = {title: of_one_cells(chosen.abilities) for title, chosen in written.shipped.items()}
    return {title: cells for title, cells in lost.items() if cells is not None}


def _headlines(groups: Sequence[Group], written: Report) -> list[str]:
    """For each group, how methods compare at an equal domain score, and how rates compare."""
    from talr_cli.statistics.matched import headline
    from talr_cli.statistics.rates import rates_line

    return [
        f"{group.title}: {text}"
        for group in groups
        for text in (headline(written.matched[group.title]), rates_line(group))
        if text
    ]


def _print_runs(cells: Cells, written: Report) -> None:
    """Print all runs, or methods and rates if there are too many runs for a screen."""
    from talr_cli.report.tables.methods import fewer_cells
    from talr_cli.report.tables.screen import print_cells

    if len(cells.rows) <= MAX_ROWS:
        print_cells(cells)
        return
    fewer, note = fewer_cells(written.lines, MAX_ROWS)
    print_cells(fewer)
    note = f"; {note}" if note else ""
    file = written.page.parent / "table.md"
    place = "" if written.error else f"; all {len(cells.rows)} runs: {file}"
    print(fold_line(f"seeds averaged{note}{place}"))


def _print_lost(title: str, chosen: Shipping, of_one: Cells) -> None:
    """Print the abilities that the run to ship has lost."""
    from talr_cli.report.recommend import NothingWithin
    from talr_cli.report.tables.screen import print_cells

    nearest = isinstance(chosen.found, NothingWithin)
    role = "the nearest to one to ship" if nearest else "the run to ship"
    run = f"{title}, {chosen.run[0].name} ({role}) against the base model"
    print()
    print(fold_line(printable(f"which abilities were lost: {run}")))
    print_cells(of_one)
