"""Finds and reads files of rows.

Knows file endings, encodings and separators; does not know what a row means.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, AnyStr

from talr_cli.data.folders import check_folder
from talr_cli.data.rows import Row
from talr_cli.errors import UserError, reason_of
from talr_cli.runs.places import files_at, named_nearly
from talr_cli.runs.reading import LARGEST, LONGEST_LINE, read_unpacked

log = logging.getLogger(__name__)

_SEPARATORS = (",", ";", "\t")
_ROWS_AT_ONCE = 1024  # of Parquet; the usual 65536 of long texts take gigabytes
# {first bytes of a file: the message, if its name promises another kind of file}.
_OTHER_KINDS = {
    b"PK\x03\x04": "is a zip archive or an Excel file: save its table as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel file: save its table as CSV",
    b"PAR1": "is a Parquet file: name it .parquet",
    b"ARROW1": "is an Arrow file: write it as Parquet",
    b"\x1f\x8b": "is a gzip file: name it with .gz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: decompress it, or compress it by gzip",
    b"version https://git-lfs": "only stands for a file of Git LFS: fetch that by `git lfs pull`",
}


def find_files(where: str | Sequence[str]) -> list[Path]:
    """The files of a path, a folder, a pattern such as `data/*.jsonl`, or a list of these.

    Of a folder, they are the files with an ending that is known here; see `files_at`.

    Raises:
        UserError: There are none, or one is named twice.
    """
    files: list[Path] = []
    for pattern in [where] if isinstance(where, str) else where:
        found, is_folder = files_at(pattern), Path(pattern).expanduser().is_dir()
        if not found and not is_folder:
            near, known = named_nearly(pattern), _endings()
            raise UserError(f"{pattern} does not exist{near}: give the path of a file, {known}")
        if is_folder:
            held, found = found, [file for file in found if _ending(file) in _READERS]
            check_folder(pattern, held, found)
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
    """Read the rows of the files of `find_files`, one at a time; a table must have `columns`.

    Raises:
        UserError: A file is missing, damaged, of an unknown kind, has no row, or lacks a column.
    """
    files = find_files(where)
    _log_files(where, files)
    for path in files:
        row = None
        try:
            with _open(path) as file:
                for row in _READERS[_ending(path)](path, file, columns):
                    yield row
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file ({error})") from error
        except OSError as error:
            reason = " ".join(str(error.strerror or error).split())[:200]
            raise UserError(f"{path} cannot be read ({reason})") from error
        if row is None:
            raise UserError(f"{path} holds no row")


def _log_files(where: str | Sequence[str], files: Sequence[Path]) -> None:
    """Log which files of a folder or pattern are read, as they may be other than expected."""
    if where == str(files[0]):
        return
    log.info("%s: the rows of %s", where, ", ".join(map(str, files)))
    for folder in [where] if isinstance(where, str) else where:
        if Path(folder).expanduser().is_dir():
            left = [str(file) for file in files_at(folder) if file not in files]
            if left:
                log.info("%s: no files of rows by their endings: %s", folder, ", ".join(left))


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _endings() -> str:
    return f"{', '.join(_READERS)} (or these with .gz)"


def _open(path: Path) -> IO[bytes]:
    """Open a file, decompressed and positioned after its byte order mark.

    Raises:
        UserError: It is empty, not UTF-8, or not of the kind that its name says.
    """
    zipped = path.name.lower().endswith(".gz")
    file: Any = gzip.open(path) if zipped else path.open("rb")  # noqa: SIM115
    is_table = _ending(path) == ".parquet"
    head = file.read(max(map(len, _OTHER_KINDS)))
    kinds = (said for begins, said in _OTHER_KINDS.items() if head.startswith(begins))
    problem = "" if is_table and head.startswith(b"PAR1") else next(kinds, "")
    if not head:
        problem = "is empty"
    elif not (problem or is_table) and (
        head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]
    ):
        problem = "is UTF-16, UTF-32 or not text: save it as UTF-8"
    if problem:
        file.close()
        raise UserError(f"{path} {problem}")
    file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
    return file


def _read_jsonl(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    is_first, begin = True, file.tell()
    lines = _lines(path, file, ": a row is a line of its own")
    for line, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        if is_first and raw.lstrip().startswith(b"["):
            file.seek(begin)
            yield from _read_json(path, file, columns)  # an array, whatever its name
            return
        if is_first and raw.strip() == b"{":
            advice = "write each on a line of its own, as `jq -c . FILE > NEW.jsonl` does"
            raise UserError(f"{path} has objects of several lines: {advice}")
        is_first = False
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            yield Row(path, line, None, "is not UTF-8")
            continue
        try:
            values = _parse_json(text)
        except (json.JSONDecodeError, RecursionError):
            yield Row(path, line, None, "is not JSON")
        except ValueError as error:
            yield Row(path, line, None, f"is not JSON: {error}")
        else:
            yield _json_row(path, line, values)


def _read_json(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    begin, are_lines = file.tell(), False
    try:
        content = read_unpacked(file, LARGEST)
    except ValueError as error:
        raise UserError(f"{path} is larger than {LARGEST >> 30} GiB: write JSON lines") from error
    try:
        rows = _parse_json(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        are_lines = "Extra data" in str(error) and content.lstrip().startswith(b"{")
        if not are_lines:
            raise UserError(f"{path} is not JSON ({error})") from error
    if are_lines:  # whatever their name
        content.clear()
        file.seek(begin)
        yield from _read_jsonl(path, file, columns)
        return
    if isinstance(rows, dict):
        rows = _unwrap(path, rows)
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a JSON array of rows but one {type(rows).__name__}")
    for line, values in enumerate(rows, start=1):
        yield _json_row(path, line, values)


def _unwrap(path: Path, whole: dict[str, Any]) -> Any:
    """The rows of a file that is a single object around them, such as {"data": [...]}."""
    keys = [
        key
        for key, value in whole.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    ]
    # An object with messages is a single row, not a file whose rows are messages.
    if len(keys) == 1 and keys[0] not in ("messages", "conversations", "tools"):
        return whole[keys[0]]
    found = f"{len(keys)} of its keys hold" if len(keys) > 1 else "none of its keys holds"
    raise UserError(
        f"{path} is one JSON object, and {found} a list of rows ({', '.join(whole) or 'no key'}): "
        "give an array of rows"
    )


def _parse_json(text: str) -> Any:
    """Parse JSON; ValueError also if a key occurs twice."""
    return json.loads(text, object_pairs_hook=_check_keys)


def _check_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; refuses a repeated key, as one of its values would be lost."""
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


def _read_csv(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_LINE)
    # Bytes that are not UTF-8 must not stop the reading; `_is_escaped` finds them as surrogates.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    start = above = 1
    try:
        lines = _lines(path, text)
        first = next(lines, "")
        if told := re.fullmatch(r'"?sep=(.)"?\s*', first):  # a line that is Excel's alone
            first, above = next(lines, ""), 2
        separator = told[1] if told else _separator(path, first)
        named = next(csv.reader([first], delimiter=separator), [])
        # Strict, as otherwise an unclosed quote would swallow the rows below it.
        reader = csv.reader(
            itertools.chain([first], lines),
            delimiter=separator,
            strict=True,
            # In `prompt, completion` the space after the separator is not part of the name.
            skipinitialspace=len(named) > 1 and all(name[:1] == " " for name in named[1:]),
        )
        header = [name.strip() for name in next(reader, [])]
        if _is_escaped(header):
            raise UserError(f"{path} has a header that is not UTF-8: save it as UTF-8")
        _check_columns(path, header, columns)
        start = above + reader.line_num
        for record in reader:
            line, start = start, above + reader.line_num
            if not record:
                continue
            if len(record) != len(header):
                yield Row(path, line, None, f"has {len(record)} fields, not {len(header)}")
            elif _is_escaped(record):
                yield Row(path, line, None, "is not UTF-8")
            else:
                yield Row(path, line, dict(zip(header, record, strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path}:{start} cannot be read as CSV ({error}): a cell that begins with a quote ends "
            "with one, and quotes in it are written twice"
        ) from error


def _lines(path: Path, file: IO[AnyStr], hint: str = "") -> Iterator[AnyStr]:
    """The lines of a file; UserError, with the hint, if one is too long."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:  # a compressed line may be larger than the memory
            raise UserError(f"{path}:{number} is longer than {LONGEST_LINE >> 20} MiB{hint}")
        yield line


def _is_escaped(cells: Sequence[str]) -> bool:
    """Whether the cells had bytes that are not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for text in cells for letter in text)


def _separator(path: Path, header: str) -> str:
    """A tab in .tsv, else whichever of `,` `;` and tab gives the header the most fields."""
    if _ending(path) == ".tsv":
        return "\t"
    return max(_SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _read_parquet(path: Path, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    line = 0
    try:
        table = parquet.ParquetFile(file)
        _check_columns(path, table.schema_arrow.names, columns)
        for batch in table.iter_batches(_ROWS_AT_ONCE):
            for values in batch.to_pylist():
                line += 1
                yield Row(path, line, drop_nulls(values))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} has a text after row {line} that is not UTF-8") from error
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # also of impossible dates
        reason = reason_of(error)
        raise UserError(f"{path} is not a Parquet file, or not a whole one: {reason}") from error


def drop_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """The row without the nulls that Arrow adds to objects for keys that only other rows have."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pruned(one) for key, one in value.items() if one is not None}
        return [pruned(one) for one in value] if isinstance(value, list) else value

    return {key: pruned(value) for key, value in values.items()}


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
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
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
