"""Reads regular files only: reading a pipe or a device in their place might never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path
from typing import IO, BinaryIO

LARGEST = 1 << 32  # bytes of a file that is read as a whole
LARGEST_TEXT = 1 << 28  # bytes; the largest is a results.json, of some MiB
LARGEST_UNPACKED = 1 << 30  # bytes of a gzip file of talr's own; the largest has a task's samples
LONGEST_LINE = 1 << 26  # bytes


def read_file(path: Path, most: int = LARGEST) -> bytes:
    """The content of a file; raises the same as `open_regular_file`.

    ValueError also if it has more than `most` bytes.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:  # a file of holes takes no room on the disk
            raise ValueError(f"it has {size >> 20} MiB")
        return file.read()


def read_unpacked(file: IO[bytes] | GzipFile, most: int) -> bytearray:
    """The rest of a file, which may be a gzip file; ValueError if it has more than `most` bytes.

    A small file may unpack to more than the memory holds.
    """
    content = bytearray()
    while piece := file.read(1 << 20):
        content += piece
        if len(content) > most:
            raise ValueError(f"it unpacks to more than {most >> 20} MiB")
    return content


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; ValueError if one is longer than any that talr writes."""
    for line in iter(lambda: file.readline(LONGEST_LINE + 1), b""):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line is longer than {LONGEST_LINE >> 20} MiB")
        yield line


@contextmanager
def open_regular_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading within this context.

    Raises:
        ValueError: It is a folder, a pipe, a device or a circular link.
        OSError: It does not exist, or may not be read.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ValueError("it is not a regular file")
        with open(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


def read_text(path: Path, errors: str = "strict") -> str:
    """The content of a file as UTF-8 text; ValueError if it is not UTF-8."""
    return read_file(path, LARGEST_TEXT).decode("utf-8", errors).replace("\r\n", "\n")
