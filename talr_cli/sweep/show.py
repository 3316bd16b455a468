"""The plan and the summary of a sweep, as tables."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from talr_cli.sweep.drive import Outcome
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.plan import state


def show_plan(jobs: Sequence[Job]) -> None:
    table = Table(title="plan")
    for title in ("run", "state", "shares"):
        table.add_column(title)
    states = [state(job) for job in jobs]
    for job, now in zip(jobs, states, strict=True):
        table.add_row(Text(job.directory.path.name), now, _shares(job))
    _console().print(table)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(states).items())
    print(f"{len(jobs)} jobs: {counts}")


def show_summary(jobs: Sequence[Job], outcomes: Mapping[Path, Outcome]) -> int:
    """Print what became of the jobs; the exit code."""
    counts = Counter(outcome.word for outcome in outcomes.values())
    print("sweep: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    bad = {path: outcome for path, outcome in outcomes.items() if not outcome.is_good}
    for path, outcome in bad.items():
        reason = (outcome.reason.strip().splitlines() or [""])[-1]
        print(f"  {outcome.word}: {path}: {reason}")
    return 1 if bad else 0


def _shares(job: Job) -> str:
    if job.command == "eval":
        return "scored once for all its runs"
    if job.needs is not None:
        return f"averages {job.needs.path.name}"
    return "only to be averaged" if job.also else ""


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)
