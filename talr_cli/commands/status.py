"""`talr status`: the states of a study's runs, by their files and by SLURM's queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from talr_cli.config import composition
from talr_cli.config.commands import StatusConfig
from talr_cli.config.composition import Composed
from talr_cli.printable import printable
from talr_cli.runs.next_command import study_command
from talr_cli.sweep.overview import Overview, RunState, study_overview

if TYPE_CHECKING:
    from talr_cli.report.tables.cells import Cells


def main(arguments: Sequence[str]) -> None:
    composition.run("status", status, arguments)


def status(composed: Composed[StatusConfig]) -> None:
    """Print a line for each run, the number of runs in each state, and what to do next."""
    config = composed.config
    from talr_cli.report.as_json import emit

    found = study_overview(Path(config.runs_dir), config.study)
    runs = [{**asdict(one), "path": str(one.path)} for one in found.runs]
    content = {"study": config.study, "runs": runs, "notes": found.notes}
    report = study_command("report", config.runs_dir, config.study)
    emit("status", config.json, content, lambda: _print(found, report))


def _print(found: Overview, report: str) -> None:
    from talr_cli.report.tables.screen import print_cells

    print_cells(_cells(found.runs))
    counts = Counter(one.state for one in found.runs)
    print("runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for note in found.notes:
        print(f"note: {printable(note)}")
    if counts["stopped"] or counts["never started"]:
        print("next: repeat `talr sweep` to submit the rest")
    elif counts.keys() == {"done"}:
        print(f"next: {report}")


def _cells(runs: Sequence[RunState]) -> Cells:
    from talr_cli.report.tables.cells import Cells, Column, named

    columns = [
        Column("run", "run"),
        Column("state", "state"),
        Column("job", "job"),
        Column("detail", "where, or why", spare=True),
    ]
    rows = [(one.path.name, one.state, one.job, one.detail) for one in runs]
    return Cells(columns, [list(map(named, row)) for row in rows])
