"""Runs whose scorer, the user's own, has changed since: which they are, how to score again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.printable import printable
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import command_of_run
from talr_cli.scorers.user import file_hash
from talr_cli.statistics.pairs import Results


def stale_lines(runs: Mapping[Path, Results]) -> list[str]:
    """A line for each scorer that has changed, then the commands that score its runs again."""
    stale: dict[str, list[Path]] = {}
    for path, one in runs.items():
        domain = one["domain"] or {}
        name, before = domain.get("scorer"), domain.get("definition")
        if not isinstance(name, str) or not isinstance(before, str):
            continue
        now = file_hash(name)
        if now is not None and before.partition("-")[0] != now:
            stale.setdefault(name, []).append(path)
    lines = []
    for name, paths in stale.items():
        count = f"{len(paths)} run{'s' * (len(paths) > 1)}"
        lines.append(f"{name} has changed since it scored {count}; to score again:")
        commands = map(_command, paths)
        lines += dict.fromkeys(f"  {command}" for command in commands)
    return [printable(line) for line in lines]


def _command(path: Path) -> str:
    """The command that made the run: repeated, it finds the weights and scores them again."""
    try:
        return command_of_run(RunDirectory(path))
    except UserError:
        return f"the command that made {path}"
