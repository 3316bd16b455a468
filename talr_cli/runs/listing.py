"""Finds the runs on disk, scored or not, and the sizes of their files.

Knows run directories; does not know what scores mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.runs.names import begins_with, matches_without_identity, safe_name
from talr_cli.runs.next_command import score_command, study_command
from talr_cli.runs.run_directory import RunDirectory, study_path

# How a run's name may match what was typed; the first of these that finds runs counts.
_MATCHERS: tuple[Callable[[str, str], bool], ...] = (
    str.__eq__,
    matches_without_identity,
    begins_with,
)
_MOST_NAMED = 20  # runs in an error message
_RUN_FILES = ("config.yaml", "status.json", "results.json")  # any of them makes a folder a run's


@dataclass(frozen=True)
class FoundRun:
    """A run directory and the name of its study."""

    study: str
    directory: RunDirectory

    @property
    def path(self) -> Path:
        return self.directory.path


def find_runs(runs_dir: Path, study: str | None) -> list[FoundRun]:
    """The runs of a study (None: of all studies), ordered by path.

    Raises:
        UserError: There is no run.
    """
    if study is None:
        studies = runs_dir.iterdir() if runs_dir.is_dir() else ()
        folders = sorted(path for path in studies if path.is_dir())
    else:
        folders = [study_path(runs_dir, study)]
    found = [
        FoundRun(folder.name, RunDirectory(path))
        for folder in folders
        for path in sorted(folder.glob("*/*"))
        if any((path / name).exists() for name in _RUN_FILES)
    ]
    if not found:
        where = runs_dir if study is None else folders[0]
        raise UserError(f"there is no run in {where}: `talr train` makes one")
    return found


def find_run(name: str, runs_dir: Path, study: str | None) -> FoundRun:
    """Find a run by its directory (or model/), or by the beginning of its name in a study.

    A full name without the identity at its end means that run, even if longer names begin with it.

    Args:
        study: The study to search; None: all studies.

    Raises:
        UserError: There is no such run, or there are several.
    """
    path = Path(name)
    where = runs_dir if study is None else study_path(runs_dir, study)
    for folder in (path, path.parent, where / path):  # the last: as in the list below
        if any((folder / sign).exists() for sign in _RUN_FILES):
            return FoundRun(folder.absolute().parents[1].name, RunDirectory(folder))
    if "/" in name:
        list_command = study_command("list", runs_dir, study)
        raise UserError(f"{name} is not a run directory: `{list_command}` lists the runs")
    try:
        runs = find_runs(runs_dir, study)
    except UserError as error:
        raise UserError(f"{name} is not a run directory, and {error}") from None
    found: list[FoundRun] = []
    for matches in _MATCHERS:
        found = found or [run for run in runs if matches(run.path.name, name)]
    if len(found) != 1:
        what = f"{len(found)} runs begin" if found else "no run begins"
        among = found or [run for run in runs if run.study == name] or runs
        names = ", ".join(str(run.path.relative_to(where)) for run in among[:_MOST_NAMED])
        if len(among) > _MOST_NAMED:
            names += f" and {len(among) - _MOST_NAMED} more"
        which = "choose one of" if found else "there are"
        if among[0].study == name:
            which = f"{name} is a study, of the runs"
        hint = "; `talr eval` scores a base model" if name == "base" and not found else ""
        if not found and path.exists():
            hint = f"; {path.absolute()} is no run: `{score_command(path)}` scores a checkpoint"
        raise UserError(f"{what} with {name} in {where}: {which} {names}{hint}")
    return found[0]


def study_location(run: RunDirectory) -> tuple[Path, str] | None:
    """(runs_dir, study) where a run is now; None if it was moved out of its study."""
    folder = run.path.resolve()
    study = folder.parents[1].name if len(folder.parents) > 2 else ""
    in_study = "__" in folder.parent.name and study and safe_name(study) == study
    return (folder.parents[2], study) if in_study else None


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as 0."""
    try:
        if path.is_symlink() or not path.is_dir():
            return 0 if path.is_symlink() else path.stat().st_size
        with os.scandir(path) as entries:
            return sum(size_on_disk(Path(entry.path)) for entry in entries)
    except OSError:  # deleted meanwhile, or not readable
        return 0


def sizes_of_parts(run: RunDirectory) -> dict[str, int]:
    """{name: bytes} of the files and folders in a run directory, without hidden ones."""
    return {
        path.name: size_on_disk(path)
        for path in sorted(run.path.iterdir())
        if not path.name.startswith(".")
    }


def format_size(size: float) -> str:
    """A number of bytes as text: `132 KiB`, `4.1 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
