"""Standard output and error as commands may rely on them: writing there never fails.

A reader that went away (`| head`), a closed or full device, an encoding without the character:
none of these ends a training. What went wrong is remembered for the exit code.
"""

from __future__ import annotations

import io
import os
import select
import shutil
import sys
import textwrap
from typing import Any


class Lenient(io.FileIO):
    """A file whose writes never fail; from the first failure on they go nowhere."""

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        size = memoryview(content).nbytes
        while self.failure is None:
            try:
                written = super().write(content)
            except OSError as error:
                self.failure = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # another program made the device non-blocking
        return size


def make_lenient() -> None:
    """Put lenient streams in the place of Python's own; those that a caller put in stay."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get its number, and our prints
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is getattr(sys, f"__{name}__"):
            setattr(sys, name, _lenient(number, before))


def width() -> int | None:
    """Characters in a line of the terminal that the standard output is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def folded(line: str, hang: int = 2) -> str:
    """A line of words as it fits the terminal, broken at blanks only; elsewhere it stays one line.

    Not for what is to be copied, such as a command.
    """
    columns = width()
    if columns is None or len(line) <= columns:
        return line
    begin = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.lstrip(),
        columns,
        initial_indent=begin,
        subsequent_indent=begin + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def failure_of_output() -> OSError | None:
    """Flush the standard output; what has kept some of it from being written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Lenient) else None


def _lenient(number: int, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    at_once = before is not None and (before.line_buffering or before.write_through)
    return io.TextIOWrapper(
        io.BufferedWriter(Lenient(number, "w", closefd=False)),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=at_once,
    )
