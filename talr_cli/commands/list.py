"""`talr list`: the runs of each study, their states, scores and sizes on disk."""

from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import ListConfig
from talr_cli.config.composition import Composed
from talr_cli.printable import printable
from talr_cli.runs.listing import find_runs, format_size
from talr_cli.streams import fold_line


def main(arguments: Sequence[str]) -> None:
    composition.run("list", list_runs, arguments)


def list_runs(composed: Composed[ListConfig]) -> None:
    """Print a table for each study, including runs that were never scored."""
    config = composed.config
    from talr_cli.report.as_json import emit, rows_of
    from talr_cli.report.tables.listing import list_cells, listed, namesake_lines
    from talr_cli.report.tables.screen import print_cells

    runs = [listed(one) for one in find_runs(Path(config.runs_dir), config.study)]

    def show() -> None:
        for study in dict.fromkeys(one.study for one in runs):
            own = [one for one in runs if one.study == study]
            count = f"{len(own)} {'run' if len(own) == 1 else 'runs'}"
            print(f"{printable(study)}: {count}, {format_size(sum(one.size for one in own))}")
            print_cells(list_cells(own))
            for line in namesake_lines(own):
                print(fold_line(printable(line)))
        print(f"all: {format_size(sum(one.size for one in runs))} in {config.runs_dir}")

    emit("list", config.json, {"runs": rows_of(list_cells(runs))}, show)
