"""Places that cannot be written, in the user's words: which one, why, and what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talr_cli.errors import UnwritableError, UserError

_ELSEWHERE = "get the right to write there or choose another folder, and repeat the command"
_ROOM = "make room and repeat the command"
_SERVER = "its server does not answer: repeat the command when it does"
_FILES = "too many files are open: end other programs, or allow more by `ulimit -n`"
_REASONS = {
    errno.ENOSPC: f"the disk is full: {_ROOM}",
    errno.EDQUOT: f"your quota of disk space is used up: {_ROOM}",
    errno.EFBIG: "files may not become so large there: choose another folder",
    errno.EROFS: f"its file system is read-only: {_ELSEWHERE}",
    errno.EACCES: f"permission denied: {_ELSEWHERE}",
    errno.EPERM: f"permission denied: {_ELSEWHERE}",
    errno.EISDIR: "it is a folder, not a file: move it away or choose another name",
    errno.EEXIST: "it is a file, not a folder: move it away or choose another folder",
    errno.ENOTDIR: "it is a file, not a folder: move it away or choose another folder",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.ENXIO: "it is no file: move it away",
    errno.ELOOP: "it is a link in a circle: move it away",
    errno.ESTALE: "its file system has lost it: repeat the command",
    errno.ETIMEDOUT: _SERVER,
    errno.EHOSTDOWN: _SERVER,
    errno.EBUSY: "something else uses it: end that, and repeat the command",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: "the system could not: check the disk, and your quota of it",
}
_NO_FOLDER = "there is no such folder: make it and repeat the command"
# What Rust (safetensors, tokenizers) and wrapped Python errors say in place of an errno.
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
# torch.save keeps the reason to itself.
_OF_TORCH = ("PytorchStreamWriter", "inline_container.cc", "iostream error")
_NEARLY_NOTHING = 2**24  # bytes


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, `path` or what is in its folder is written.

    Raises:
        UnwritableError: The system does not let us. Any other error is left as it is.
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
        raise UnwritableError(f"cannot write {path}: {_REASONS[number]}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        UnwritableError: The system does not let us.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def _errno(path: Path, error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        named = error.filename2 or error.filename  # of a copy: where it goes
        # Another file, which was read while this one was written.
        if isinstance(named, str | os.PathLike) and not _is_near(Path(named), path):
            return None
        return error.errno
    found = _NUMBER.search(str(error))
    if found is not None:
        return int(found[1] or found[2])
    if any(sign in str(error) for sign in _OF_TORCH):
        full = shutil.disk_usage(path.parent).free < _NEARLY_NOTHING
        return errno.ENOSPC if full else errno.EIO
    return None


def _is_near(named: Path, path: Path) -> bool:
    """Whether it is in the folder of `path`, below it, or one of the folders above."""
    named, folder = named.absolute(), path.absolute().parent
    return named.is_relative_to(folder) or folder.is_relative_to(named)


def _not_a_folder(path: Path) -> Path:
    """The part of `path` that should be a folder and is something else."""
    found = (one for one in (path, *path.parents) if one.exists() and not one.is_dir())
    return next(found, path)
