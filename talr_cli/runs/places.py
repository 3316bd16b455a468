"""Finds the files that a path, folder or glob pattern stands for. Does not read them."""

from __future__ import annotations

import difflib
import glob
from contextlib import suppress
from pathlib import Path

from talr_cli.errors import UserError

CONFIG = "config.yaml"  # of a run, in STUDY/MODEL__DATASET/RUN
IDENTITY = "# run identity: "  # its first line


def files_at(pattern: str) -> list[Path]:
    """The files of a path, of a folder and its subfolders, or of a glob pattern, sorted by name.

    `~` is expanded; of a folder, hidden files and talr's own studies are left out. A file whose
    name looks like a pattern is that file. Empty if there is no file.

    Raises:
        UserError: There is no such home, a folder may not be read, or the name is too long.
    """
    try:
        return _found(Path(pattern).expanduser())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot look for {pattern[:200]}: {reason}") from error


def named_nearly(pattern: str) -> str:
    """` (did you mean FILE?)` if a file of the folder is called nearly so; else empty."""
    path = Path(pattern.replace("\\", "/")).expanduser()
    try:
        names = [one.name for one in path.parent.iterdir() if one.is_file()]
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _found(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        shown = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
        studies = {study for file in shown if (study := _study_of(path, file)) is not None}
        return sorted(path / file for file in shown if studies.isdisjoint(file.parents))
    # Not Path.glob: there `*` also matches hidden files, other than in a shell.
    matching = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    return sorted(file for file in matching if file.is_file())


def _study_of(folder: Path, file: Path) -> Path | None:
    """The study, below the folder, of the run that this file is the config of; else None."""
    if file.name == CONFIG and len(file.parts) > 3:
        with suppress(OSError), (folder / file).open("rb") as config:
            if config.read(len(IDENTITY)) == IDENTITY.encode():
                return file.parents[2]
    return None
