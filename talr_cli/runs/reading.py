"""Reading a small file of a run, where something else may lie under its name.

A pipe would be waited for without end, a device read without end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: What lies there is no file but a folder, a pipe, a device, a link in a circle.
        OSError: It is not there, or may not be read.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is no file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ValueError("it is no file")
        with open(opened, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(opened)


def read_text(path: Path, errors: str = "strict") -> str:
    """As `read_file`, in UTF-8; ValueError where it is not that."""
    return read_file(path).decode("utf-8", errors).replace("\r\n", "\n")
