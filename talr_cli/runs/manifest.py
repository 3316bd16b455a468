"""The manifest of a folder: its files with sizes and digests, written last, to detect damage.

The digest detects damage, not malice: XXH3 (128 bits) takes 0.1 s per GiB, SHA-256 0.7 s with the
processor's SHA instructions and several seconds without.
"""

import errno
import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from talr_cli.errors import UserError
from talr_cli.runs.reading import read_file, read_text

MANIFEST = "talr.manifest"
DIGEST = "xxh3_128"
# What file systems say that cannot fsync a folder, such as some of networks and in user space.
_NOT_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def seal(folder: Path) -> None:
    """Flush a folder to disk, then write its manifest.

    Files get the permissions of the folder, as safetensors makes them readable only by their owner.
    """
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    parts = sorted(folder.rglob("*"))
    files = [part for part in parts if part.is_file()]
    mode = folder.stat().st_mode & 0o777
    for part in parts:
        wanted = mode if part.is_dir() else mode & 0o666
        if part.stat().st_mode & 0o777 != wanted:
            with suppress(PermissionError):  # the file is ours: the file system has no modes
                part.chmod(wanted)
        fsync(part)
    fsync(folder)
    listed = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, DIGEST: _digest(file)}
        for file in files
    }
    with manifest.open("w", encoding="utf-8") as content:
        json.dump({"files": listed}, content, indent=1)
        content.flush()
        os.fsync(content.fileno())
    fsync(folder)
    fsync(folder.parent)


def find_damage(folder: Path) -> str | None:
    """How a folder differs from its manifest, in words; None if it is intact.

    Files that were added later are not damage.

    Raises:
        UserError: A file may not be read.
    """
    try:
        files = _listed_files(folder / MANIFEST)
        for name, written in files.items():
            found = (folder / name).stat()
            if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device would not end
                return f"{name} is no file"
            size = found.st_size
            if size != written["bytes"]:
                return f"{name} has {size} bytes instead of {written['bytes']}"
        for name, written in files.items():
            if _digest(folder / name) != written[DIGEST]:
                return f"{name} is not what was written"
    except OSError as error:
        name = Path(str(error.filename or folder)).name
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(f"cannot read {error.filename}: permission denied") from error
        if isinstance(error, FileNotFoundError):
            return f"{name} is missing"
        return f"{name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be parsed"
    return None


def digest(folder: Path) -> str | None:
    """A hash of the content of a sealed folder; None if it has no manifest."""
    try:
        return hashlib.sha256(read_file(folder / MANIFEST)).hexdigest()
    except (OSError, ValueError):
        return None


def check(folder: Path, remedy: str) -> None:
    """Raise UserError, with `remedy`, if a folder is damaged.

    A folder without a manifest is accepted: it is not talr's, or of an older version.
    """
    damage = find_damage(folder) if (folder / MANIFEST).exists() else None
    if damage is not None:
        raise UserError(f"{folder} is damaged: {damage}; {remedy}")


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, so that they survive a power loss."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NOT_OF_FOLDERS):
            raise
    finally:
        os.close(opened)


def _listed_files(manifest: Path) -> dict[str, dict[str, Any]]:
    files = json.loads(read_text(manifest))["files"]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("a name outside of the folder")
    return files


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, xxhash.xxh3_128).hexdigest()
