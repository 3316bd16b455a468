"""Files and folders that are either the old or the new version, whatever happens to the writer.

Knows about bytes on disk; does not know what they mean. All raise UserError where the system does
not let them write.
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
from talr_cli.runs.disk import writing
from talr_cli.runs.manifest import fsync, seal
from talr_cli.runs.reading import read_file, read_text

BUILDING = ".building-"
ANOTHER = "take another copy of it"  # what to do about a damaged file of somebody else's
FORGOTTEN = 3600.0  # seconds, in which no living process leaves a temporary file untouched
log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`: temporary file in the same folder, fsync, rename."""
    # Not tempfile: its files are readable by their owner only, and rename keeps that.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        _remove_forgotten(path)
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


def _remove_forgotten(path: Path) -> None:
    """What processes that were killed while they wrote `path` have left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > FORGOTTEN:
                left.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object. Raises UserError: it is none; `remedy` says what to do."""
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return found


def write_packed(path: Path, value: Any) -> None:
    """Replace `path` with `value` as JSON in gzip, which has a checksum."""
    write_bytes(path, gzip.compress(json.dumps(value).encode(), mtime=0))


def read_packed(path: Path) -> Any:
    """What `write_packed` wrote; None where there is nothing, or nothing whole, which is said."""
    try:
        return json.loads(gzip.decompress(read_file(path)))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s): it is made again", path, error)
        return None


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line of JSON in a single write; NaN and infinities become null."""
    line = (json.dumps(finite(value), allow_nan=False) + "\n").encode()
    with writing(path):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(file)


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder, to be filled inside, that appears under its name only when all of it is there.

    It is sealed (see `manifest`). A kill in the instant between the two renames that put it in the
    place of an old one leaves neither.
    """
    building = folder.with_name(f"{BUILDING}{folder.name}-{uuid.uuid4().hex}")
    aside = folder.with_name(f"{BUILDING}{folder.name}-{uuid.uuid4().hex}")
    with writing(folder):
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
        with suppress(OSError):  # no locks here: it is then cleaned up by its owner only
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with writing(folder):
            yield building
            seal(building)
            if folder.exists():
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
    """What processes that died while they made `folder` have left; those that live keep theirs."""
    for left in folder.parent.glob(f"{BUILDING}{folder.name}-*"):
        with suppress(OSError):
            file = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(file)


def finite(value: Any) -> Any:
    """The value with null for NaN and infinities.

    JSON has none, and strict readers (browsers, jq, R) reject a whole file for one.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
