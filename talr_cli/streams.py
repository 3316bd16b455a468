"""Standard output and error streams to which writing never fails.

A closed pipe (`| head`), a closed or full device, or an encoding without a character must not end a
training. What went wrong is remembered for the exit code.
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
    """A file whose writes never fail; after the first failure they are discarded."""

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
            select.select([], [self], [])  # another program has made the device non-blocking
        return size


def make_lenient() -> None:
    """Replace Python's own streams by lenient ones; streams that a caller has set stay."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next opened file would get its number and our output
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _lenient(number, stream))


def terminal_width() -> int | None:
    """The characters per line of the terminal; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fold_line(line: str, hang: int = 2) -> str:
    """Wrap a line of words to the terminal, at blanks only; without a terminal it stays one line.

    Not for text that will be copied, such as a command.
    """
    columns = terminal_width()
    if columns is None or len(line) <= columns:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.lstrip(),
        columns,
        initial_indent=indent,
        subsequent_indent=indent + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def failure_of_output() -> OSError | None:
    """Flush standard output; returns the error that prevented some of it, if any."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Lenient) else None


def _lenient(number: int, stream: io.TextIOWrapper | None) -> io.TextIOWrapper:
    line_buffering = stream is not None and (stream.line_buffering or stream.write_through)
    return io.TextIOWrapper(
        io.BufferedWriter(Lenient(number, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
    )
