"""`talr report`: what a study found, as tables, pictures and one page with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from talr_cli import progress
from talr_cli.config import composition
from talr_cli.config.commands import ReportConfig
from talr_cli.config.composition import Composed
from talr_cli.printable import printable
from talr_cli.runs.study import scored_runs, study_path


def main(arguments: Sequence[str]) -> None:
    composition.run("report", report, arguments)


def report(composed: Composed[ReportConfig]) -> None:
    """Read the results of the study's runs; write report/ beside them."""
    config = composed.config
    runs_dir = Path(config.runs_dir)
    show_report(runs_dir, config.study, scored_runs(runs_dir, config.study), config.json)


def show_report(
    runs_dir: Path, study: str, runs: Mapping[Path, dict[str, Any]], target: str | None = None
) -> None:
    """Print the table and the claims of scored runs, write the rest.

    Args:
        target: For `json=`.
    """
    from talr_cli.report.as_json import check_target, give, rows_of
    from talr_cli.report.claims.text import as_lines
    from talr_cli.report.claims.verdicts import findings
    from talr_cli.report.stale import stale_lines
    from talr_cli.report.study_report import write_report
    from talr_cli.report.tables.screen import print_cells
    from talr_cli.report.tables.table import results_cells
    from talr_cli.statistics.groups import comparable, left_out_lines
    from talr_cli.statistics.matched import headline, matched
    from talr_cli.statistics.rates import rates_line

    check_target(target)
    groups = comparable(runs.values())
    with progress.work("writing the report"):
        cells, found, left_out = results_cells(groups), findings(runs), left_out_lines(groups)
        page = write_report(runs, study, study_path(runs_dir, study) / "report")
    headlines = [
        f"{group.title}: {told}"
        for group in groups
        for told in (rates_line(group), headline(matched(group)))
        if told
    ]

    def show() -> None:
        for line in headlines:
            print(printable(line))
        print_cells(cells)
        for line in [*left_out, *stale_lines(runs), *as_lines(found)]:
            print(line)
        print(f"report: {page}")

    claims = [asdict(one) for one in found]
    content = {
        "headlines": headlines,
        "runs": rows_of(cells),
        "left_out": left_out,
        "claims": claims,
        "page": str(page),
    }
    give("report", target, content, show)
