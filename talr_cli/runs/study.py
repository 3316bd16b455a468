"""Loads the runs of a study from disk; there is no index that could become wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.printable import command_line
from talr_cli.runs.damage import warn_once
from talr_cli.runs.listing import find_run
from talr_cli.runs.next_command import score_command, study_command
from talr_cli.runs.results import read_results
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.stored_overrides import current_overrides

SCORES = "scores"  # the folder of a study in which task scores are cached


def load_results(runs_dir: Path, study: str) -> list[dict[str, Any]]:
    """The content of every `results.json` of a study, ordered by path."""
    return list(load_runs(runs_dir, study).values())


def filter_pair(
    results: Sequence[dict[str, Any]], model: str, dataset: str
) -> list[dict[str, Any]]:
    """The results of one model on one dataset."""
    pair = (model, dataset)
    return [one for one in results if (one["run"]["model"], one["run"]["dataset"]) == pair]


def scored_runs(runs_dir: Path, study: str) -> dict[Path, dict[str, Any]]:
    """The same as `load_runs`; UserError if the study has no scored run."""
    runs = load_runs(runs_dir, study)
    if not runs:
        folder = study_path(runs_dir, study)
        if any(folder.glob("*/*/results.json")):
            raise UserError(f"no results in {folder} can be read: score the runs again")
        others = sorted({path.parts[-4] for path in runs_dir.glob("*/*/*/results.json")})
        here = f"; studies with scores: {', '.join(others)}" if others else ""
        train = study_command("train", runs_dir, study)
        raise UserError(f"there is no scored run in {folder}: run `{train}` first{here}")
    return runs


def load_runs(runs_dir: Path, study: str) -> dict[Path, dict[str, Any]]:
    """{run directory: content of its `results.json`} of a study, ordered by path.

    Files that cannot be read are left out with a warning.
    """
    return _load(study_path(runs_dir, study), "*/*/results.json")


def load_siblings(run: Path) -> dict[Path, dict[str, Any]]:
    """The same as `load_runs`, for the run directories in the folder of `run`, itself included."""
    return _load(run.resolve().parent, "*/results.json")


def load_run(name: str, runs_dir: Path, study: str | None) -> tuple[Path, dict[str, Any]]:
    """The directory of a scored run, and the content of its `results.json`.

    Args:
        name: A run directory, its model/, or the beginning of a run's name.
        study: The study to search; None: all studies.

    Raises:
        UserError: There is no such run, there are several, or it has no scores.
    """
    folders = (Path(name), Path(name).parent)
    is_place = "/" in name and Path(name).exists()  # a word may be a run's name and a folder too
    if is_place and not any((one / "results.json").exists() for one in folders):
        raise UserError(_not_scored(name))
    run = find_run(name, runs_dir, study).path
    if not (run / "results.json").exists():
        raise UserError(_not_scored(run))
    return run, read_results(run / "results.json")


def command_of_run(run: RunDirectory) -> str:
    """The command that made a run; repeated, it finds the run and scores it if needed.

    Raises:
        UserError: It was not kept, or cannot be read.
    """
    command = "train" if "trainer" in run.read_config() else "eval"
    return command_line(["talr", command, *current_overrides(run)])


def _not_scored(run: str | Path) -> str:
    return f"{run} has no results.json: score it with `{score_command(run)}`"


def _load(folder: Path, pattern: str) -> dict[Path, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob(pattern)):
        try:
            found[path.parent] = read_results(path)
        except UserError as error:
            warn_once(f"left out: {error}")
    return found
