"""Rows of files and of hub data sets, and the report of those that cannot be used.

Knows files and lines; does not know what a row means.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from talr_cli.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_NAMED = 20


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

    def text(self, column: str) -> str:
        """The text of a column without white space around it.

        Raises:
            ValueError: The row could not be read, or there is no text.
        """
        if self.values is None:
            raise ValueError(self.error)
        text = self.values.get(column)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"has no {column}")
        return text.strip()


def check_paths(path: str | None, test_path: str | None) -> None:
    """Raise UserError where test rows come from a file and the training rows do not."""
    if path is None and test_path is not None:
        raise UserError("dataset.test_path needs dataset.path: give the training rows too")


@dataclass
class BadRows:
    """Collects the rows that cannot be used, to report them together."""

    on_bad_row: str = "stop"
    max_bad_share: float = 0.05
    _reasons: list[str] = field(default_factory=list)
    _total: int = 0

    def __post_init__(self) -> None:
        if self.on_bad_row not in ("stop", "skip"):
            raise UserError(f"dataset.on_bad_row={self.on_bad_row} is not stop or skip")

    def sift(self, rows: Iterable[Row], make: Callable[[Row], T]) -> Iterator[T]:
        """What `make` makes of every good row; where it raises ValueError the row is noted."""
        for row in rows:
            self._total += 1
            try:
                yield make(row)
            except ValueError as error:
                self._reasons.append(f"{row.file}:{row.line} {error}")

    def settle(self) -> None:
        """Raise, or with `skip` warn, once all rows have been looked at.

        Raises:
            UserError: There are bad rows and they may not be skipped, or there are too many.
        """
        bad, total = len(self._reasons), self._total
        if not bad:
            return
        more = f"; and {bad - MOST_NAMED} more" if bad > MOST_NAMED else ""
        named = "; ".join(self._reasons[:MOST_NAMED]) + more
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


def read_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file, one at a time. `columns` must be there in a CSV or Parquet file.

    Raises:
        UserError: The file is missing, empty, of an unknown kind, or lacks a column.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of a {', '.join(readers)} file")
    if path.suffix not in readers:
        raise UserError(f"{path} is not a {', '.join(readers)} file: convert or rename it")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    return readers[path.suffix](path, columns)


def read_hub(
    hub_id: str, config: str | None, split: str, instead: str, revision: str | None = None
) -> Iterator[Row]:
    """The rows of one split of a data set on the hub; their `file` is `hub_id/split`.

    Raises:
        UserError: It cannot be loaded; `instead` says what else the user can give.
    """
    from datasets import load_dataset

    try:
        loaded = load_dataset(hub_id, config, split=split, revision=revision)
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{hub_id} cannot be loaded ({reason}): {instead}") from error
    for line, values in enumerate(loaded, start=1):
        yield Row(Path(hub_id, split), line, dict(values))


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                values = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError:
                yield Row(path, line, None, "is not UTF-8")
            except ValueError:
                yield Row(path, line, None, "is not JSON")
            else:
                if isinstance(values, dict):
                    yield Row(path, line, values)
                else:
                    yield Row(path, line, None, "is not a JSON object")


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}): name a file of JSON lines .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a JSON array of rows but one {type(rows).__name__}")
    for line, values in enumerate(rows, start=1):
        if isinstance(values, dict):
            yield Row(path, line, values)
        else:
            yield Row(path, line, None, "is not a JSON object")


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    # Bytes that are not UTF-8 must not stop the reading: they are found again as surrogates.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        _demand(path, header, columns)
        start = reader.line_num + 1
        for record in reader:
            line, start = start, reader.line_num + 1
            if not record:
                continue
            if len(record) != len(header):
                yield Row(path, line, None, f"has {len(record)} fields, not {len(header)}")
            elif any("\ud800" <= letter <= "\udfff" for text in record for letter in text):
                yield Row(path, line, None, "is not UTF-8")
            else:
                yield Row(path, line, dict(zip(header, record, strict=True)))


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error
    _demand(path, file.schema_arrow.names, columns)
    line = 0
    for batch in file.iter_batches():
        for values in batch.to_pylist():
            line += 1
            yield Row(path, line, values)


def _demand(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}"
        )
