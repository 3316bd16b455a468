"""Config values that several datasets have, declared once: arguments for `fields.value`."""

from __future__ import annotations

from typing import Any

from talr_cli.data.duplicates import MOST_OVERLAP

SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}
A_FILE: dict[str, Any] = {"default": None, "is_file": True, "may_be_empty": False}
SCORED_FILE: dict[str, Any] = {**A_FILE, "identity": False}
SOME_ROWS: dict[str, Any] = {"default": None, "at_least": 1}

NAME: dict[str, Any] = {
    "doc": "Its name in tables and run directories.",
    "may_be_empty": False,
    "identity": False,
}
HUB_ID: dict[str, Any] = {"doc": "The data set on the hub.", "may_be_empty": False}
REVISION: dict[str, Any] = {
    "doc": "A commit, branch or tag of it on the hub; null: the newest.",
    "default": None,
}
DATA_SEED: dict[str, Any] = {
    "doc": "Which rows are drawn; `seed` does not change the data.",
    "default": 0,
}
MAX_OVERLAP: dict[str, Any] = {
    "doc": "The most of the test prompts that may also occur in training; more is an error.",
    "default": MOST_OVERLAP,
    "identity": False,
    **SHARE,
}
# These two do not count for the identity: any run that succeeds has trained on the same rows.
ON_BAD_ROW: dict[str, Any] = {
    "doc": "Whether rows that cannot be used end the run or are left out.",
    "default": "stop",
    "choices": ("stop", "skip"),
    "identity": False,
}
MAX_BAD_SHARE: dict[str, Any] = {
    "doc": "The most of the rows that may be left out; more is an error.",
    "default": 0.05,
    "identity": False,
    **SHARE,
}
