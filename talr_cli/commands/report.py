"""`talr report`: what a study found, as tables, pictures and one page with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from talr_cli import hydra_app
from talr_cli.config import check
from talr_cli.runs.study import scored_runs, study_path


def main(arguments: Sequence[str]) -> None:
    hydra_app.run("report", report, arguments)


def report(config: DictConfig) -> None:
    """Read the results of the study's runs; write report/ beside them."""
    check(config)
    folder = study_path(Path(config.runs_dir), config.study)
    runs = scored_runs(Path(config.runs_dir), config.study)
    from talr_cli.report.claims import findings
    from talr_cli.report.claims_text import as_lines
    from talr_cli.report.study_report import write_report
    from talr_cli.report.table import print_table

    print_table(list(runs.values()))
    for line in as_lines(findings(runs)):
        print(line)
    print(f"report: {write_report(runs, config.study, folder / 'report')}")
