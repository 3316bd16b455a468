"""Finds a task's data in local files (`suite.data_dir`) instead of its dataset on the hub.

Knows names and formats of files; does not know the harness.
"""

from __future__ import annotations

import glob
import os
import zipfile
import zlib
from pathlib import Path

from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.general import mini, ours
from talr_cli.models.sources import cache_dir
from talr_cli.runs.atomic import NEW_COPY, atomic_folder
from talr_cli.runs.places import files_at

BUNDLED = {"mini": mini.TASK_DIR, "ours": ours.TASK_DIR}

# {ending of a file: the name of its format in the library `datasets`}; files may be gzipped, too.
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

_PUNKT = "tokenizers/punkt_tab"


class MissingDataError(Exception):
    """Something that a task needs is missing; the message says what it is and how to get it."""


def format_of(file: Path) -> str | None:
    """`json`, `csv` or `parquet`; None for any other file."""
    return _FORMATS.get(Path(file.name.removesuffix(".gz")).suffix.lower())


def task_folder(task_dir: str) -> Path:
    """The folder that `suite.task_dir` names."""
    return BUNDLED.get(task_dir) or Path(task_dir)


def find_split_file(suite: SuiteConfig, task: str, split: str, group: str) -> Path:
    """The file in `suite.data_dir` with a split of a task.

    Its name matches the pattern `suite.data_files.TASK.SPLIT`, or that of the task's group; the
    default is TASK_SPLIT and an ending.

    Raises:
        MissingDataError: There is none, or more than one.
    """
    patterns = {**suite.data_files.get(group, {}), **suite.data_files.get(task, {})}
    pattern = patterns.get(split, f"{task}_{split}.*")
    found = _matching(suite, pattern)
    if len(found) > 1:
        raise MissingDataError(
            f"{task}: {', '.join(file.name for file in found)} in suite.data_dir={suite.data_dir} "
            f"could each be its split {split}: name one with suite.data_files.{task}.{split}=FILE"
        )
    if not found:
        raise MissingDataError(
            f"{task}: suite.data_dir={suite.data_dir} has no {pattern} for its split {split}"
        )
    return found[0]


def local_data_files(suite: SuiteConfig) -> dict[str, Path]:
    """{TASK/NAME: file} of every file in `suite.data_dir` that a task of the suite may read."""
    if suite.data_dir is None:
        return {}
    patterns = {task: {"any": f"{task}_*"} for task in suite.tasks}
    for name, own in suite.data_files.items():
        if any(name == task or name.startswith(f"{task}_") for task in suite.tasks):
            patterns[name] = own  # the name of a task, or of a task in a group
    return {
        f"{task}/{file.name}": file
        for task, own in patterns.items()
        for pattern in own.values()
        for file in _matching(suite, pattern)
    }


def files_below(folder: Path) -> dict[str, Path]:
    """{path within `folder`: file} of every file that a task defined there may use."""
    return {
        str(file.relative_to(folder)): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def _matching(suite: SuiteConfig, pattern: str) -> list[Path]:
    folder = glob.escape(str(Path(str(suite.data_dir)).expanduser()))
    return [file for file in files_at(str(Path(folder, pattern))) if format_of(file)]


def require_punkt(task: str, data_dir: str | None) -> None:
    """Require nltk's sentence splitter, which the harness would miss only while scoring.

    Raises:
        MissingDataError: It is neither installed nor in `data_dir`, and cannot be downloaded.
    """
    import nltk

    if data_dir is not None:
        folder = Path(data_dir).expanduser()
        for archive in sorted(folder.glob("*punkt_tab*.zip"))[:1]:
            folder = cache_dir() / "nltk"
            if not (folder / _PUNKT).is_dir():
                _unpack(task, archive, folder)
        if str(folder) not in nltk.data.path:
            nltk.data.path.append(str(folder))
    try:
        nltk.data.find(_PUNKT)
    except LookupError as error:
        offline = data_dir is not None or os.environ.get("HF_HUB_OFFLINE") == "1"
        if offline or not nltk.download("punkt_tab", quiet=True):
            raise MissingDataError(
                f"{task}: nltk's punkt_tab is missing: run `python -m nltk.downloader punkt_tab` "
                "where there is a connection, or put punkt_tab.zip into suite.data_dir"
            ) from error


def _unpack(task: str, archive: Path, folder: Path) -> None:
    try:
        with atomic_folder(folder) as building, zipfile.ZipFile(archive) as file:
            file.extractall(building / "tokenizers")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise MissingDataError(f"{task}: {archive} is damaged ({error}): {NEW_COPY}") from error
