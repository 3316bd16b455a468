"""The runs of a study, found by looking: there is no index that could be wrong."""

import json
import logging
from pathlib import Path
from typing import Any

from talr_cli.runs.run_directory import study_path

SCHEMA = 1
log = logging.getLogger(__name__)


def load_results(runs_dir: Path, study: str) -> list[dict[str, Any]]:
    """The content of every `results.json` of a study, in the order of the paths."""
    return list(load_runs(runs_dir, study).values())


def load_runs(runs_dir: Path, study: str) -> dict[Path, dict[str, Any]]:
    """{run directory: content of its `results.json`} of a study, in the order of the paths."""
    found = {}
    for path in sorted(study_path(runs_dir, study).glob("*/*/results.json")):
        results = read_results(path)
        if results is not None:
            found[path.parent] = results
    return found


def read_results(path: Path) -> dict[str, Any] | None:
    """The content of a `results.json`; None, with a warning, where it is not what it should be."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] != SCHEMA:
            raise ValueError(f"schema {results['schema']}, expected {SCHEMA}")
        results["run"]["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("left out %s: %s: %s", path, type(error).__name__, error)
        return None
    return results
