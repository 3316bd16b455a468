"""Runs whose scorer, a user's own, has changed since they were scored."""

from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.printable import printable
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import command_of_run
from talr_cli.scorers.user import file_hash
from talr_cli.statistics.pairs import RunsByPath


def stale_lines(runs: RunsByPath) -> list[str]:
    """A line for each changed scorer, followed by the commands that score its runs again."""
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
        lines += dict.fromkeys(f"  {_command(path)}" for path in paths)
    return [printable(line) for line in lines]


def _command(path: Path) -> str:
    """The command that made the run; repeated, it scores the existing weights again."""
    try:
        return command_of_run(RunDirectory(path))
    except UserError:
        return f"the command that made {path}"
