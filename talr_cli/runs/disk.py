"""Turns errors of writing to disk into messages for the user: which path, why, and what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talr_cli.errors import UnwritableError, UserError

_ELSEWHERE = "get write permission or choose another folder, and repeat the command"
_ROOM = "free some space and repeat the command"
_NAMES = "the disk has room, but none for more files (`df -i`): delete some and repeat the command"
_SERVER = "its file server does not answer: repeat the command when it does"
_FILES = "too many files are open: close other programs, or raise the limit with `ulimit -n`"
_REASONS = {
    errno.ENOSPC: f"the disk is full: {_ROOM}",
    errno.EDQUOT: f"your disk quota is used up: {_ROOM}",
    errno.EFBIG: "the file would be too large for that disk: choose another folder",
    errno.EROFS: f"its file system is read-only: {_ELSEWHERE}",
    errno.EACCES: f"permission denied: {_ELSEWHERE}",
    errno.EPERM: f"permission denied: {_ELSEWHERE}",
    errno.EISDIR: "it is a folder, not a file: move it away or choose another name",
    errno.EEXIST: "it is a file, not a folder: move it away or choose another folder",
    errno.ENOTDIR: "it is a file, not a folder: move it away or choose another folder",
    errno.ENOTEMPTY: "something was put there meanwhile: move it away or choose another name",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.ENXIO: "it is not a regular file: move it away",
    errno.ELOOP: "it is a link, which is not followed to write there: move it away",
    errno.ESTALE: "the file server no longer knows it: repeat the command",
    errno.ETIMEDOUT: _SERVER,
    errno.EHOSTDOWN: _SERVER,
    errno.EBUSY: "another program is using it: close that, and repeat the command",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: "an input/output error: check the disk and your quota",
}
_NO_FOLDER = "the folder does not exist: create it and repeat the command"
# The errno in messages of Rust libraries (safetensors, tokenizers) and of wrapped Python errors.
_ERRNO_IN_MESSAGE = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
_TORCH_MESSAGES = ("PytorchStreamWriter", "inline_container.cc", "iostream error")  # without errno
_NEARLY_FULL = 2**24  # free bytes


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Wrap code that writes `path`, or something else in its folder.

    Raises:
        UnwritableError: The system refuses to write. Other errors pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _errno(path, error)
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise UnwritableError(f"cannot write {path}: {_NO_FOLDER}") from error
        if number not in _REASONS:
            raise
        if number in (errno.EEXIST, errno.ENOTDIR):
            path = _not_a_folder(path)
        reason = _NAMES if number == errno.ENOSPC and _lacks_inodes(path) else _REASONS[number]
        raise UnwritableError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents if they do not exist.

    Raises:
        UnwritableError: The system refuses to write.
    """
    with explain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def _errno(path: Path, error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        failed = error.filename2 or error.filename  # filename2 is the target of a copy
        # The error may be about another file, which was read while this one was written.
        if isinstance(failed, str | os.PathLike) and not _is_near(Path(failed), path):
            return None
        return error.errno
    match = _ERRNO_IN_MESSAGE.search(str(error))
    if match is not None:
        return int(match[1] or match[2])
    if any(text in str(error) for text in _TORCH_MESSAGES):
        is_full = shutil.disk_usage(path.parent).free < _NEARLY_FULL
        return errno.ENOSPC if is_full else errno.EIO
    return None


def _lacks_inodes(path: Path) -> bool:
    """Whether the file system of `path` has room, but can have no more files."""
    folder = next(part for part in (path, *path.absolute().parents) if part.exists())
    found = os.statvfs(folder)
    return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0


def _is_near(other: Path, path: Path) -> bool:
    """Whether `other` is in or below the folder of `path`, or is one of the folders above it."""
    other, folder = other.absolute(), path.absolute().parent
    return other.is_relative_to(folder) or folder.is_relative_to(other)


def _not_a_folder(path: Path) -> Path:
    """The part of `path` that should be a folder but is not."""
    others = (part for part in (path, *path.parents) if part.exists() and not part.is_dir())
    return next(others, path)
