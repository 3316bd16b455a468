"""The identity of a run: a hash of everything that can change its result.

Knows how to hash; which parts of the config count is decided by the caller.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

LARGE = 2**24  # bytes, from which on a file's digest is worth remembering


def run_identity(config: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """SHA-256 (hex) of the resolved config and of the content of the files it reads.

    `files` maps a role ("train") to a path: the content counts, where it lies does not.
    The first 8 digits are the run's short id.
    """
    parts = {
        "config": config,
        "files": {role: file_digest(path) for role, path in files.items()},
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content.

    A process reads a large one once, however many runs it plans, until the file changes.
    """
    stat = path.stat()
    if stat.st_size < LARGE:
        return _digest(path)
    return _remembered(
        path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _remembered(path: Path, *seen: int) -> str:
    return _digest(path)


def code_digest(made: Any) -> str | None:
    """SHA-256 (hex) of the file of a module, or of that which a class, object or function is of.

    None where there is no file, and for talr's own and Python's: they have versions.
    """
    module = made.__name__ if isinstance(made, ModuleType) else getattr(made, "__module__", "")
    package = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if package == "talr_cli" or package in sys.stdlib_module_names or file is None:
        return None
    return file_digest(Path(file))
