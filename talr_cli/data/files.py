"""Files of rows, and data sets of the hub: where they are, and how they are read.

Knows endings, encodings and separators; does not know what a row means.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from talr_cli.data.rows import Row
from talr_cli.errors import UserError
from talr_cli.runs.places import files_at

_SEPARATORS = (",", ";", "\t")


def files_of(where: str | Sequence[str]) -> list[Path]:
    """The files that a path, a folder, a pattern such as `data/*.jsonl`, or a list of them names.

    In a folder those that end like a file of rows; see `files_at`.

    Raises:
        UserError: There is none, or one is named twice.
    """
    files: list[Path] = []
    for pattern in [where] if isinstance(where, str) else where:
        found = files_at(pattern)
        if not found:
            raise UserError(f"{pattern} does not exist: give the path of a file, {_endings()}")
        if Path(pattern).expanduser().is_dir():
            found = [file for file in found if _ending(file) in _READERS]
            if not found:
                raise UserError(f"{pattern} holds no file that ends with {_endings()}")
        for file in found:
            if _ending(file) not in _READERS:
                raise UserError(f"{file} does not end with {_endings()}: convert or rename it")
            if file in files:
                raise UserError(f"{file} is named twice: its rows would count twice")
            files.append(file)
    if not files:
        raise UserError("an empty list of files: name at least one")
    return files


def read_files(where: str | Sequence[str], columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of the files of `files_of`, one at a time. A table must have `columns`.

    Raises:
        UserError: A file is missing, damaged, of an unknown kind, has no row, or lacks a column.
    """
    for path in files_of(where):
        row = None
        try:
            with _opened(path) as file:
                for row in _READERS[_ending(path)](path, file, columns):
                    yield row
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file ({error})") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
        if row is None:
            raise UserError(f"{path} holds no row")


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _endings() -> str:
    return f"{', '.join(_READERS)} (or these with .gz)"


def _opened(path: Path) -> IO[bytes]:
    """The file, unzipped, after its byte order mark.

    Raises:
        UserError: It is empty or not UTF-8.
    """
    zipped = path.name.lower().endswith(".gz")
    file: Any = gzip.open(path) if zipped else path.open("rb")  # noqa: SIM115
    head = file.read(4)
    problem = ""
    if not head:
        problem = "is empty"
    elif head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
        problem = "is UTF-16, UTF-32 or not text: save it as UTF-8"
    if problem and not (head and _ending(path) == ".parquet"):
        file.close()
        raise UserError(f"{path} {problem}")
    file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
    return file


def _jsonl(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    for line, raw in enumerate(file, start=1):
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            yield Row(path, line, None, "is not UTF-8")
            continue
        try:
            values = _parsed(text)
        except (json.JSONDecodeError, RecursionError):
            yield Row(path, line, None, "is not JSON")
        except ValueError as error:
            yield Row(path, line, None, f"is not JSON: {error}")
        else:
            yield _json_row(path, line, values)


def _json(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    try:
        rows = _parsed(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}): name a file of JSON lines .jsonl"
        ) from error
    if isinstance(rows, dict):
        rows = _wrapped(path, rows)
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a JSON array of rows but one {type(rows).__name__}")
    for line, values in enumerate(rows, start=1):
        yield _json_row(path, line, values)


def _wrapped(path: Path, whole: dict[str, Any]) -> Any:
    """The rows of a file that is one object around them, {"data": [...]}."""
    keys = [
        key
        for key, value in whole.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    ]
    # An object with messages is one row and not a file of rows, each of them a message.
    if len(keys) == 1 and keys[0] not in ("messages", "conversations", "tools"):
        return whole[keys[0]]
    found = f"{len(keys)} of its keys hold" if len(keys) > 1 else "none of its keys holds"
    raise UserError(
        f"{path} is one JSON object, and {found} a list of rows ({', '.join(whole) or 'no key'}): "
        "give an array of rows"
    )


def _parsed(text: str) -> Any:
    """What a JSON text says; ValueError where it says a key twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose key comes twice is no row: one of the values would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice} comes twice")
    return values


def _json_row(path: Path, line: int, values: Any) -> Row:
    if not isinstance(values, dict):
        return Row(path, line, None, "is not a JSON object")
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        return Row(path, line, None, f"holds {half}, half of a character: no text can have that")
    return Row(path, line, values)


def _csv(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    # Bytes that are not UTF-8 must not stop the reading: they are found again as surrogates.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    reader, line = None, 1
    try:
        lines = iter(text)
        first = next(lines, "")
        reader = csv.reader(_chain(first, lines), delimiter=_separator(path, first))
        header = [name.strip() for name in next(reader, [])]
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
    except csv.Error as error:
        raise UserError(f"{path}:{line} cannot be read as CSV ({error})") from error


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _separator(path: Path, header: str) -> str:
    """A tab in .tsv; else the one of `,` `;` and tab that cuts the header into most fields."""
    if _ending(path) == ".tsv":
        return "\t"
    return max(_SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _parquet(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        _demand(path, table.schema_arrow.names, columns)
        line = 0
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                line += 1
                yield Row(path, line, _without_filling(values))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error


def _without_filling(values: dict[str, Any]) -> dict[str, Any]:
    """The row without the nulls that Arrow puts into objects for keys which only others have."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pruned(one) for key, one in value.items() if one is not None}
        return [pruned(one) for one in value] if isinstance(value, list) else value

    return {key: pruned(value) for key, value in values.items()}


def _demand(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}"
        )
    for name in header:
        if name and header.count(name) > 1:
            raise UserError(f"{path} has two columns of the name {name}")


_Reader = Callable[[Path, IO[bytes], Sequence[str]], Iterator[Row]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


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
        yield Row(Path(hub_id, split), line, _without_filling(dict(values)))
