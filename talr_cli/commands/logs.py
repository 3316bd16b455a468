"""`talr logs RUN`: what a run of a sweep prints."""

import sys
import time
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import LogsConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError, reason_of
from talr_cli.printable import printable_lines
from talr_cli.runs.listing import find_run
from talr_cli.runs.next_command import study_command
from talr_cli.runs.reading import open_regular_file

POLL = 0.5  # seconds between checks for new lines


def main(arguments: Sequence[str]) -> None:
    composition.run("logs", logs, arguments, positional=("run",))


def logs(composed: Composed[LogsConfig]) -> None:
    """Print the end of a run's newest log, and with `follow` also each new line."""
    config = composed.config
    if config.run is None:
        list_command = study_command("list", config.runs_dir, config.study)
        raise UserError(f"a run is needed: talr logs RUN; `{list_command}` lists them")
    run = find_run(config.run, Path(config.runs_dir), config.study)
    files = [run.path / f"{command}.log" for command in ("train", "eval")]
    existing = [file for file in files if file.exists()]
    if not existing:
        status = study_command("status", config.runs_dir, run.study)
        raise UserError(
            f"{run.path} has no log: a run has one if a sweep or its job has started it "
            f"(`{status}`); `talr train` prints everything on its terminal"
        )
    newest = max(existing, key=lambda file: file.stat().st_mtime)
    for text in _read_log(newest, config.lines, config.follow):
        sys.stdout.write(printable_lines(text))
        sys.stdout.flush()


def _read_log(file: Path, lines: int, follow: bool) -> Iterator[str]:
    try:
        with (
            open_regular_file(file) as raw,
            TextIOWrapper(raw, "utf-8", "replace", newline="\n") as log,
        ):
            yield "".join(log.readlines()[-lines:])
            while follow:
                if added := log.read():
                    yield added
                else:
                    time.sleep(POLL)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise UserError(
            f"{file} cannot be read ({reason}): give it its rights, or delete it"
        ) from error
