"""The table of `talr list`: every run directory, with or without scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.report.tables.cells import Cell, Cells, Column, named
from talr_cli.report.tables.table import estimate_cell
from talr_cli.runs.listing import FoundRun, format_size, sizes_of_parts
from talr_cli.runs.names import without_identity
from talr_cli.runs.status import State
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.pairs import PARTS, Results


@dataclass(frozen=True)
class Listed:
    """A run directory.

    Attributes:
        reason: The last line of the reason why it failed or diverged, if it did.
        results: None if it was not scored.
        parts: {file or folder in the directory: bytes}.
    """

    study: str
    path: Path
    state: State
    reason: str | None
    results: Results | None
    parts: dict[str, int]

    @property
    def size(self) -> int:
        """The size in bytes."""
        return sum(self.parts.values())


def listed(found: FoundRun) -> Listed:
    """Read a run directory for the table."""
    run = found.directory
    status, results = run.read_status(), run.read_results()
    reason = (status.reason or "").strip().splitlines()
    return Listed(
        found.study,
        run.path,
        status.state,
        reason[-1] if reason else None,
        results,
        sizes_of_parts(run),
    )


def list_cells(runs: Sequence[Listed]) -> Cells:
    """A row for each run; model and dataset are shown only if there are several pairs."""
    several = len({one.path.parent for one in runs}) > 1
    columns = [
        Column("study"),
        Column("pair", "model and dataset" if several else "", spare=True),
        Column("run", "run"),
        Column("state", "state"),
        Column("domain", "domain", number=True, error="domain_stderr"),
        Column("general", "general", number=True, error="general_stderr"),
        Column("bytes", "size", number=True, spare=True),
        Column("reason"),
        Column("path"),
    ]
    return Cells(columns, [_line(one) for one in runs])


def namesake_lines(runs: Sequence[Listed]) -> list[str]:
    """A line for each name that several runs of a folder share up to their identity."""
    by_name: dict[Path, list[Listed]] = {}
    for one in runs:
        path = one.path.with_name(without_identity(one.path.name))
        by_name.setdefault(path, []).append(one)
    lines = []
    for path, own in by_name.items():
        if len(own) < 2:
            continue
        data = {(one.results or {}).get("trained_on") for one in own}
        if len(data - {None}) > 1:
            what = "their training data"
        else:
            what = "a value or in their training data" if None in data else "another value"
        lines.append(
            f"{len(own)} runs are called {path.name} and differ in {what}: `talr show RUN`"
        )
    return lines


def _line(one: Listed) -> list[Cell]:
    scores: dict[str, Any] = one.results or {"domain": None, "general": None}
    return [
        *map(named, (one.study, one.path.parent.name, one.path.name, one.state)),
        *(estimate_cell(part, estimate_of(scores[part])) for part in PARTS),
        Cell(format_size(one.size), one.size),
        named(one.reason),
        named(str(one.path)),
    ]
