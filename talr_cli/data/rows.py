"""A row of a dataset as it was read, and the report about rows that cannot be used.

Knows where a row is and which cells are blank; does not know file formats, nor what a row means.
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
_NO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"  # invisible characters


@dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        file: The file that it comes from.
        line: Its place, from 1: the line in JSONL, the line where it starts in CSV, the number of
            the row in Parquet, in a JSON array and on the hub.
        values: {column: value}; None if it could not be read.
        error: Why it could not be read.
    """

    file: Path
    line: int
    values: dict[str, Any] | None
    error: str = ""

    def read(self) -> dict[str, Any]:
        """The columns that are not blank.

        Raises:
            ValueError: The row could not be read.
        """
        if self.values is None:
            raise ValueError(self.error)
        return {key: value for key, value in self.values.items() if not is_blank(value)}

    def text(self, column: str) -> str:
        """The text of a column, without surrounding white space.

        Raises:
            ValueError: The row could not be read, or there is no text.
        """
        text = self.read().get(column)
        if not isinstance(text, str):
            raise ValueError(f"has no {column}")
        return text.strip()


def is_blank(value: Any) -> bool:
    """Whether a cell is empty: null, NaN (pandas' null), white space or an empty list.

    An empty CSV cell is treated as a missing column. Invisible characters, which are common in
    tables from the web, count as white space.
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value == [] or (isinstance(value, str) and not has_text(value))


def has_text(text: str) -> bool:
    """Whether a text has any visible character."""
    return any(not letter.isspace() and letter not in _NO_WIDTH for letter in text)


def check_paths(path: str | None, test_path: str | None) -> None:
    """Raise UserError if test rows come from a file but training rows do not."""
    if path is None and test_path is not None:
        raise UserError("dataset.test_path needs dataset.path: give the training rows too")


@dataclass
class BadRows:
    """Collects the rows that cannot be used, to report them together, grouped by reason."""

    on_bad_row: str
    max_bad_share: float
    _found: dict[tuple[Path, str], list[int]] = field(default_factory=dict)
    _totals: dict[Path, int] = field(default_factory=dict)

    def sift(self, rows: Iterable[Row], make: Callable[[Row], T]) -> Iterator[T]:
        """What `make` makes of each row; rows for which it raises ValueError are noted as bad."""
        for row in rows:
            self._totals[row.file] = self._totals.get(row.file, 0) + 1
            try:
                yield make(row)
            except ValueError as error:
                self._found.setdefault((row.file, str(error)), []).append(row.line)

    def settle(self) -> None:
        """Raise or, with `skip`, warn about the bad rows, after all rows have been read.

        Raises:
            UserError: There are bad rows and they may not be skipped, or there are too many.
        """
        bad, total = sum(map(len, self._found.values())), sum(self._totals.values())
        if not bad:
            return
        for (file, reason), lines in self._found.items():
            # If all rows fail, the file is of another kind, and skipping them would not help. A
            # line may be counted twice, if a file is given to train on and to score.
            if len(lines) == self._totals[file] > 1:
                raise UserError(f"{file}: each of its {len(set(lines))} rows {reason}")
        named = "; ".join(_named(self._found))
        few = bad <= self.max_bad_share * total
        if self.on_bad_row == "stop" or not few:
            more = "" if few else f", more than dataset.max_bad_share={self.max_bad_share:g}"
            skip = to_skip(bad, total, is_above=not few)
            raise UserError(f"{bad} of {total} rows are bad{more}: {named}. Mend them{skip}")
        log.warning("%d of %d rows are bad and left out: %s", bad, total, named)


def to_skip(bad: int, total: int, is_above: bool = True) -> str:
    """The end of a message: what leaves so many bad rows out; "" if no row would be left.

    Args:
        is_above: Whether they are more than may be left out as it is.
    """
    share = f" dataset.max_bad_share={-int(-bad * 100 // total) / 100:.2f}" if is_above else ""
    return f"; or leave them out with dataset.on_bad_row=skip{share}" if bad < total else ""


def _named(found: Mapping[tuple[Path, str], list[int]]) -> Iterator[str]:
    """`FILE:LINE, LINE and 3 more REASON` for the first MOST_NAMED files and reasons."""
    for (file, reason), lines in list(found.items())[:MOST_NAMED]:
        more = f" and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
        yield f"{file}:{', '.join(map(str, lines[:MOST_NAMED]))}{more} {reason}"
    if len(found) > MOST_NAMED:
        yield f"and {sum(map(len, list(found.values())[MOST_NAMED:]))} more"
