"""The identity of a run: a hash of everything that can change its result.

Knows how to hash; the caller decides which parts of the config count.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from talr_cli.errors import UserError

LARGE = 2**24  # bytes; the digest of a file from this size on is cached


def run_identity(config: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """SHA-256 (hex) of the resolved config and of the content of its files; 8 digits are its id.

    Args:
        files: {role, such as "train": path}; the content of a file counts, its path does not.
    """
    parts = {
        "config": config,
        "files": {role: file_digest(path) for role, path in files.items()},
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content; a large file is read again only if it has changed.

    Raises:
        UserError: The file may not be read.
    """
    stat = path.stat()
    if stat.st_size < LARGE:
        return _digest(path)
    return _cached_digest(
        path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


@cache
def _cached_digest(path: Path, *stat: int) -> str:
    return _digest(path)


def code_digest(item: Any) -> str | None:
    """SHA-256 (hex) of the source file of a module, or of a class, object or function in one.

    None if there is no file, and for talr's and Python's own modules, which have versions.
    """
    module = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", "")
    package = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if package == "talr_cli" or package in sys.stdlib_module_names or file is None:
        return None
    return file_digest(Path(file))
