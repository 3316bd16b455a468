"""`talr compare A B`: whether two runs differ by more than noise, and on which items."""

import json
from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import CompareConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.printable import printable
from talr_cli.runs.atomic import write_text
from talr_cli.runs.study import load_run
from talr_cli.streams import fold_line, terminal_width


def main(arguments: Sequence[str]) -> None:
    composition.run("compare", compare, arguments, positional=("a", "b"))


def compare(composed: Composed[CompareConfig]) -> None:
    """Print the differences and some flipped items; write all flipped items to `config.flips`."""
    config = composed.config
    if config.a is None or config.b is None:
        raise UserError("two runs are needed: talr compare A B; see `talr compare --help`")
    if config.flips is not None and not Path(config.flips).parent.is_dir():
        raise UserError(f"flips={config.flips}: {Path(config.flips).parent} is not a directory")
    before, after = (
        load_run(name, Path(config.runs_dir), config.study) for name in (config.a, config.b)
    )
    from talr_cli.report import flips
    from talr_cli.report.as_json import emit, rows_of
    from talr_cli.report.tables import comparison
    from talr_cli.report.tables.screen import print_cells
    from talr_cli.statistics.pairs import setting_mismatch

    cells = comparison.comparison_cells(before[1], after[1])
    flipped = flips.flipped_items(before, after)
    otherwise = setting_mismatch(before[1], after[1])

    def show() -> None:
        print(f"A: {printable(str(before[0]))}\nB: {printable(str(after[0]))}")
        if otherwise is not None:
            print(f"the runs have the same name, but {otherwise}")
        print_cells(cells)
        print(fold_line(comparison.LEGEND, hang=0))
        print(flips.as_text(flipped, config.examples, terminal_width() or flips.WIDTH), end="")

    content = {
        "a": str(before[0]),
        "b": str(after[0]),
        "made_otherwise": otherwise,
        "parts": rows_of(cells),
        "flips": flipped,
    }
    emit("compare", config.json, content, show)
    if config.flips is not None:
        lines = (json.dumps(flip, ensure_ascii=False) + "\n" for flip in flipped)
        write_text(Path(config.flips), "".join(lines))
        if config.json != "-":
            print(f"flipped items: {config.flips}")
