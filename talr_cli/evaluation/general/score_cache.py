"""Caches the scores of tasks, with a file for each checkpoint, task and setting.

The files are in `runs/STUDY/scores/`, so that they are moved and deleted with the study. Thus a
study's base model is scored once, and if a suite gets another task, only that task is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.runs.atomic import read_gzip_json, write_gzip_json
from talr_cli.runs.disk import make_folder
from talr_cli.runs.identity import run_identity

log = logging.getLogger(__name__)

RECORD = {"definition", "version", "n", "values", "samples", "batch_size"}


@dataclass(frozen=True)
class ScoreCache:
    """The cache of one checkpoint; `checkpoint` is a hash of its weights and tokenizer."""

    folder: Path
    checkpoint: str

    def file(self, task: str, settings: Mapping[str, Any]) -> Path:
        """The file for the record of a task; `settings` has all that could change the record."""
        key = run_identity({"checkpoint": self.checkpoint, "settings": settings}, {})[:16]
        return self.folder / f"{task}-{key}.json.gz"


def read_record(file: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none or, with a warning, if it is damaged."""
    record = read_gzip_json(file)
    if record is not None and not (isinstance(record, dict) and record.keys() >= RECORD):
        log.warning("%s is no record of scores: it is made again", file)
        return None
    return record


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    make_folder(file.parent)
    write_gzip_json(file, record)
