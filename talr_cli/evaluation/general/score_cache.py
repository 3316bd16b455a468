"""Scores of tasks, kept for later runs: a file for each checkpoint, task and setting.

They lie in `runs/STUDY/scores/`, so that they are moved and deleted with the study. A study's base
model is scored once, and of a suite that gains a task only that task is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.runs.atomic import read_packed, write_packed
from talr_cli.runs.disk import make_folder
from talr_cli.runs.identity import run_identity

log = logging.getLogger(__name__)

RECORD = {"definition", "version", "n", "values", "samples", "batch_size"}


@dataclass(frozen=True)
class ScoreCache:
    """`checkpoint` identifies weights and tokenizer by their content."""

    folder: Path
    checkpoint: str

    def file(self, task: str, settings: Mapping[str, Any]) -> Path:
        """Where the record of a task lies, or will lie; `settings` is all that could change it."""
        key = run_identity({"checkpoint": self.checkpoint, "settings": settings}, {})[:16]
        return self.folder / f"{task}-{key}.json.gz"


def read_record(file: Path) -> dict[str, Any] | None:
    """A record as it was written; None where there is none, or (with a warning) a damaged one."""
    record = read_packed(file)
    if record is not None and not (isinstance(record, dict) and record.keys() >= RECORD):
        log.warning("%s is no record of scores: it is made again", file)
        return None
    return record


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    make_folder(file.parent)
    write_packed(file, record)
