"""Files and folders that are either the old or the new version, whatever happens to the writer.

Knows about bytes on disk; does not know what they mean.
"""

import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`: temporary file in the same folder, fsync, rename."""
    # Not tempfile: its files are readable by their owner only, and rename keeps that.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line of JSON in a single write; NaN and infinities become null."""
    line = json.dumps(_finite(value), allow_nan=False) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class made_whole:  # noqa: N801 (a context manager, named as one)
    """A folder that appears under its name only when all of it is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.building = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".building-"))
        return self.building

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.building.chmod(0o755)
            self.building.rename(self.folder)
        else:
            shutil.rmtree(self.building)


def _finite(value: Any) -> Any:
    # JSON has no NaN, and strict readers (browsers, jq, R) reject a whole file for one.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
