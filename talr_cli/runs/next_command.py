"""Builds the commands that messages suggest, with the folder of the studies if it is unusual."""

from __future__ import annotations

from pathlib import Path

from talr_cli.printable import command_line

DEFAULT_RUNS_DIR = "runs"  # as in conf/, so it need not be typed


def score_command(run: str | Path) -> str:
    """The command that scores the run in this directory."""
    return command_line(["talr", "eval", f"ckpt={run}"])


def study_command(command: str, runs_dir: Path | str, study: str | None, *arguments: str) -> str:
    """`talr COMMAND` for a study; None: for all studies in `runs_dir`.

    Args:
        arguments: Come before the study.
    """
    values = [] if study is None else [f"study={study}"]
    values += [] if str(runs_dir) == DEFAULT_RUNS_DIR else [f"runs_dir={runs_dir}"]
    return command_line(["talr", command, *arguments, *values])
