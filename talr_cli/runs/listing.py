"""The runs that lie on disk, scored or not: where each stands and what its parts take.

Knows run directories; does not know what scores mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.runs.names import begins, file_name, is_but_for_identity
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.to_type import study_command

# How a run's name may fit what was typed; the first that any does decides.
_FITS: tuple[Callable[[str, str], bool], ...] = (str.__eq__, is_but_for_identity, begins)
_SIGNS = ("config.yaml", "status.json", "results.json")  # any of them makes a folder a run's


@dataclass(frozen=True)
class Found:
    """A run directory and the study that it lies in."""

    study: str
    directory: RunDirectory

    @property
    def path(self) -> Path:
        return self.directory.path


def runs_in(runs_dir: Path, study: str | None) -> list[Found]:
    """The runs of a study, or of all, in the order of their paths.

    Raises:
        UserError: There is no run.
    """
    if study is None:
        folders = sorted(path for path in _folders(runs_dir))
    else:
        folders = [study_path(runs_dir, study)]
    found = [
        Found(folder.name, RunDirectory(path))
        for folder in folders
        for path in sorted(folder.glob("*/*"))
        if any((path / name).exists() for name in _SIGNS)
    ]
    if not found:
        where = runs_dir if study is None else folders[0]
        raise UserError(f"no run under {where}: `talr train` makes one")
    return found


def find_run(name: str, runs_dir: Path, study: str | None) -> Found:
    """A run by its directory (or model/), or by what its name begins with in a study, or in any.

    A whole name without the identity at its end means that run, whatever other names begin with it.

    Raises:
        UserError: There is none, or there are several.
    """
    path = Path(name)
    where = runs_dir if study is None else study_path(runs_dir, study)
    for folder in (path, path.parent, where / path):  # the last is how runs are named below
        if any((folder / sign).exists() for sign in _SIGNS):
            return Found(folder.absolute().parents[1].name, RunDirectory(folder))
    if "/" in name:
        names = study_command("list", runs_dir, study)
        raise UserError(f"{name} is no run's directory: `{names}` names the runs")
    try:
        runs = runs_in(runs_dir, study)
    except UserError as none:
        raise UserError(f"{name} is no run's directory, and {none}") from None
    found: list[Found] = []
    for fits in _FITS:
        found = found or [one for one in runs if fits(one.path.name, name)]
    if len(found) != 1:
        what = f"{len(found)} runs begin" if found else "no directory and no run begins"
        names = ", ".join(str(one.path.relative_to(where)) for one in found or runs)
        which = "give one of" if found else "there are"
        base = "; `talr eval` scores a base model" if name == "base" and not found else ""
        raise UserError(f"{what} with {name} in {where}: {which} {names}{base}")
    return found[0]


def place_of(run: RunDirectory) -> tuple[Path, str] | None:
    """(runs_dir, study) that a run lies in now; None for one that was taken out of its study."""
    folder = run.path.resolve()
    study = folder.parents[1].name if len(folder.parents) > 2 else ""
    is_there = "__" in folder.parent.name and study and file_name(study) == study
    return (folder.parents[2], study) if is_there else None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count for nothing."""
    try:
        if path.is_symlink() or not path.is_dir():
            return 0 if path.is_symlink() else path.stat().st_size
        with os.scandir(path) as entries:
            return sum(size_of(Path(entry.path)) for entry in entries)
    except OSError:  # gone meanwhile, or not ours to read
        return 0


def parts_of(run: RunDirectory) -> dict[str, int]:
    """{name: bytes} of what lies in a run directory, folders as a whole; hidden files left out."""
    return {
        path.name: size_of(path)
        for path in sorted(run.path.iterdir())
        if not path.name.startswith(".")
    }


def as_size(size: float) -> str:
    """Bytes for people: `132 KiB`, `4.1 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _folders(runs_dir: Path) -> Iterator[Path]:
    if runs_dir.is_dir():
        yield from (path for path in runs_dir.iterdir() if path.is_dir())
