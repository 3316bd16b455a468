"""A row of a data set, and the report of those that cannot be used.

Knows what is blank and where a row stands; does not know files, nor what a row means.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from talr_cli.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_NAMED = 20
_NO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"


@dataclass(frozen=True)
class Row:
    """One record and where it stands; `values` is None when it could not be read: see `error`.

    `line` counts from 1: the line of the file in JSONL, the line a record starts on in CSV, the
    row in Parquet, in a JSON array and on the hub.
    """

    file: Path
    line: int
    values: dict[str, Any] | None
    error: str = ""

    def read(self) -> dict[str, Any]:
        """The columns that hold something, see `is_blank`.

        Raises:
            ValueError: The row could not be read.
        """
        if self.values is None:
            raise ValueError(self.error)
        return {key: value for key, value in self.values.items() if not is_blank(value)}

    def text(self, column: str) -> str:
        """The text of a column without white space around it.

        Raises:
            ValueError: The row could not be read, or there is no text.
        """
        text = self.read().get(column)
        if not isinstance(text, str):
            raise ValueError(f"has no {column}")
        return text.strip()


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (as pandas has it), white space or an empty list.

    An empty CSV cell is the same as a column that is not there. Signs of no width, which tables
    from the web are full of, are white space too.
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value == [] or (isinstance(value, str) and not has_text(value))


def has_text(text: str) -> bool:
    """Whether there is anything in it to be seen."""
    return any(not letter.isspace() and letter not in _NO_WIDTH for letter in text)


def check_paths(path: str | None, test_path: str | None) -> None:
    """Raise UserError where test rows come from a file and the training rows do not."""
    if path is None and test_path is not None:
        raise UserError("dataset.test_path needs dataset.path: give the training rows too")


@dataclass
class BadRows:
    """Collects the rows that cannot be used, to report them together, each reason once."""

    on_bad_row: str = "stop"
    max_bad_share: float = 0.05
    _found: dict[tuple[Path, str], list[int]] = field(default_factory=dict)
    _totals: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_bad_row not in ("stop", "skip"):
            raise UserError(f"dataset.on_bad_row={self.on_bad_row} is not stop or skip")

    def sift(self, rows: Iterable[Row], make: Callable[[Row], T]) -> Iterator[T]:
        """What `make` makes of every good row; where it raises ValueError the row is noted."""
        for row in rows:
            self._totals[row.file] = self._totals.get(row.file, 0) + 1
            try:
                yield make(row)
            except ValueError as error:
                self._found.setdefault((row.file, str(error)), []).append(row.line)

    def settle(self) -> None:
        """Raise, or with `skip` warn, once all rows have been looked at.

        Raises:
            UserError: There are bad rows and they may not be skipped, or there are too many.
        """
        bad, total = sum(map(len, self._found.values())), sum(self._totals.values())
        if not bad:
            return
        for (file, reason), lines in self._found.items():
            # Not a bad row but a file of another kind: to skip its rows would be no help. One file
            # may be given twice, to train on and to score.
            if len(lines) == self._totals[file] > 1:
                raise UserError(f"{file}: each of its {len(set(lines))} rows {reason}")
        named = "; ".join(_named(self._found))
        if self.on_bad_row == "stop":
            raise UserError(
                f"{bad} of {total} rows are bad: {named}. Mend them, or set dataset.on_bad_row=skip"
            )
        if bad > self.max_bad_share * total:
            raise UserError(
                f"{bad} of {total} rows are bad, more than dataset.max_bad_share="
                f"{self.max_bad_share}: {named}"
            )
        log.warning("%d of %d rows are bad and left out: %s", bad, total, named)


def _named(found: Mapping[tuple[Path, str], list[int]]) -> Iterator[str]:
    """`FILE:LINE, LINE and 3 more REASON`, of the first MOST_NAMED kinds."""
    for (file, reason), lines in list(found.items())[:MOST_NAMED]:
        more = f" and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
        yield f"{file}:{', '.join(map(str, lines[:MOST_NAMED]))}{more} {reason}"
    if len(found) > MOST_NAMED:
        yield f"and {sum(map(len, list(found.values())[MOST_NAMED:]))} more"
