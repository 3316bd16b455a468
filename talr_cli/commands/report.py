"""`talr report`: what a study found, as tables, pictures and one page with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    show_report(runs_dir, config.study, scored_runs(runs_dir, config.study))


def show_report(runs_dir: Path, study: str, runs: Mapping[Path, dict[str, Any]]) -> None:
    """Print the table and the claims of scored runs, write the rest."""
    from talr_cli.report.claims.text import as_lines
    from talr_cli.report.claims.verdicts import findings
    from talr_cli.report.study_report import write_report
    from talr_cli.report.tables.table import print_table
    from talr_cli.statistics.groups import comparable, left_out_lines
    from talr_cli.statistics.matched import headline, matched

    groups = comparable(runs.values())
    for group in groups:
        if told := headline(matched(group)):
            print(printable(f"{group.title}: {told}"))
    print_table(groups)
    for line in [*left_out_lines(groups), *as_lines(findings(runs))]:
        print(line)
    print(f"report: {write_report(runs, study, study_path(runs_dir, study) / 'report')}")
