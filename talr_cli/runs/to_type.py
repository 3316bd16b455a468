"""The commands that a user is told to type next, as they work where the studies lie."""

from __future__ import annotations

from pathlib import Path

from talr_cli.printable import command_line

USUAL = "runs"  # the runs_dir of conf/, which need not be typed


def score_command(run: str | Path) -> str:
    """What scores a run that lies there."""
    return command_line(["talr", "eval", f"ckpt={run}"])


def study_command(command: str, runs_dir: Path | str, study: str | None, *typed: str) -> str:
    """`talr COMMAND` on a study, wherever it lies, or on all that lie there (None).

    Args:
        typed: What else is typed, before the study.
    """
    of_study = [] if study is None else [f"study={study}"]
    elsewhere = [] if str(runs_dir) == USUAL else [f"runs_dir={runs_dir}"]
    return command_line(["talr", command, *typed, *of_study, *elsewhere])
