"""Reading a small file of a run, where something else may lie under its name.

A pipe would be waited for without end, a device read without end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def read_file(path: Path) -> bytes:
    """The content of a file; raises as `opened`."""
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file, to be read inside.

    Raises:
        ValueError: What lies there is no file but a folder, a pipe, a device, a link in a circle.
        OSError: It is not there, or may not be read.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is no file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ValueError("it is no file")
        with open(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


def read_text(path: Path, errors: str = "strict") -> str:
    """As `read_file`, in UTF-8; ValueError where it is not that."""
    return read_file(path).decode("utf-8", errors).replace("\r\n", "\n")
