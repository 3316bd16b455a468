"""Writes files and folders atomically: after a crash there is the old or the new version.

Knows nothing of what they contain. All functions raise UserError if the system refuses to write.
"""

import errno
import fcntl
import glob
import gzip
import json
import logging
import math
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.manifest import fsync, seal
from talr_cli.runs.reading import (
    LARGEST_UNPACKED,
    open_regular_file,
    read_text,
    read_unpacked,
)

BUILDING = ".building-"
NEW_COPY = "replace it with a new copy"  # the remedy for a damaged file that talr did not write
ABANDONED_AFTER = 3600.0  # seconds; no living process leaves a temporary file alone for so long
log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`: temporary file in the same folder, fsync, rename."""
    # Not tempfile: its files are readable by their owner only, and rename keeps that.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with explain_write_errors(path):
        _remove_abandoned(path)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        fsync(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote `path`."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.tmp"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED_AFTER:
                file.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(nan_to_null(value), indent=2, allow_nan=False) + "\n")


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; UserError, with `remedy`, if the file holds something else."""
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return found


def write_gzip_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as JSON in gzip, which has a checksum."""
    write_bytes(path, gzip.compress(json.dumps(value).encode(), mtime=0))


def read_gzip_json(path: Path) -> Any:
    """What `write_gzip_json` wrote; None if there is no file, or, with a warning, a damaged one."""
    try:
        with open_regular_file(path) as file, gzip.open(file) as unpacked:
            return json.loads(read_unpacked(unpacked, LARGEST_UNPACKED))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s): it is computed again", path, error)
        return None


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one line of JSON in a single write; NaN and infinities become null."""
    line = (json.dumps(nan_to_null(value), allow_nan=False) + "\n").encode()
    with explain_write_errors(path):
        file = open_to_append(path)
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(file)


def open_to_append(path: Path | str, flags: int = os.O_WRONLY | os.O_CREAT | os.O_APPEND) -> int:
    """Open a file at its end, or create it; also an opener for `open(path, "ab")`.

    Raises:
        OSError: The system refuses, or it is a link, which may lead anywhere, or a pipe.
    """
    never_through = os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags | never_through, 0o666)


@contextmanager
def atomic_folder(folder: Path, replace: bool = True) -> Iterator[Path]:
    """Yields a temporary folder, which is sealed (see `manifest`) and then renamed to `folder`.

    An existing folder is replaced by two renames; a kill between them leaves neither version.

    Args:
        replace: If false, an existing folder that is not empty is an error.
    """
    building = folder.with_name(f"{BUILDING}{folder.name}-{uuid.uuid4().hex}")
    aside = folder.with_name(f"{BUILDING}{folder.name}-{uuid.uuid4().hex}")
    with explain_write_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        building.mkdir()
        try:
            lock = os.open(building, os.O_RDONLY)
        except OSError:
            building.rmdir()
            raise
    try:
        with suppress(OSError):  # a file system without locks: only we clean up then
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with explain_write_errors(folder):
            yield building
            seal(building)
            if replace and folder.exists():
                folder.rename(aside)
            try:
                building.rename(folder)
            except OSError:
                if aside.exists():
                    aside.rename(folder)
                raise
            fsync(folder.parent)
    finally:
        os.close(lock)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary folders of dead processes that were making `folder`."""
    for unfinished in folder.parent.glob(f"{BUILDING}{folder.name}-*"):
        with suppress(OSError):
            file = os.open(unfinished, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(unfinished, ignore_errors=True)
            finally:
                os.close(file)


def nan_to_null(value: Any) -> Any:
    """The value with None in place of NaN and infinities.

    JSON has neither, and strict readers (browsers, jq, R) reject a whole file for one.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return value
