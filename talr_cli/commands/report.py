"""`talr report`: the trade-off of a study, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from talr_cli import hydra_app
from talr_cli.config import check
from talr_cli.errors import UserError
from talr_cli.runs.study import load_results, study_path


def main(arguments: Sequence[str]) -> None:
    hydra_app.run("report", report, arguments)


def report(config: DictConfig) -> None:
    """Read every results.json of the study; write report/ beside its runs."""
    check(config)
    results = load_results(Path(config.runs_dir), config.study)
    if not results:
        raise UserError(
            f"no scored run under {study_path(Path(config.runs_dir), config.study)}: "
            f"run `talr train study={config.study}` first"
        )
    from talr_cli.report.table import print_table, write_tables
    from talr_cli.report.tradeoff import plot_tradeoff

    folder = study_path(Path(config.runs_dir), config.study) / "report"
    folder.mkdir(exist_ok=True)
    print_table(results)
    write_tables(results, folder)
    for picture in plot_tradeoff(results, folder):
        print(f"picture: {picture}")
