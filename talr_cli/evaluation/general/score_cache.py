"""Scores of a task that need no second computation: a file for each checkpoint, task and setting.

In `runs/STUDY/scores/`: they belong to the study, move with it and are deleted with it. A base
model is scored once in it, and a task that a suite gains is the only one that is run.
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
    """A record as it was written; None where there is none, or a damaged one, which is said."""
    record = read_packed(file)
    if record is not None and not (isinstance(record, dict) and record.keys() >= RECORD):
        log.warning("%s is no record of scores: it is made again", file)
        return None
    return record


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    make_folder(file.parent)
    write_packed(file, record)
