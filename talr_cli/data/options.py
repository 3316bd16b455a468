"""Config values that several datasets have, declared once: arguments for `fields.value`."""

from __future__ import annotations

from typing import Any

from talr_cli.data.duplicates import MOST_OVERLAP

SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}
A_FILE: dict[str, Any] = {"default": None, "is_file": True, "may_be_empty": False}
SCORED_FILE: dict[str, Any] = {**A_FILE, "identity": False}
SOME_ROWS: dict[str, Any] = {"default": None, "at_least": 1}

NAME: dict[str, Any] = {
    "doc": "its name in tables and run directories",
    "may_be_empty": False,
    "identity": False,
}
HUB_ID: dict[str, Any] = {"doc": "the data set on the hub", "may_be_empty": False}
REVISION: dict[str, Any] = {
    "doc": "a commit, branch or tag of it on the hub; null: the newest",
    "default": None,
}
DATA_SEED: dict[str, Any] = {
    "doc": "random seed of the choice of rows; `seed` does not change the data",
    "default": 0,
}
MAX_OVERLAP: dict[str, Any] = {
    "doc": "largest share of test prompts that may also occur in training; more is an error",
    "default": MOST_OVERLAP,
    "identity": False,
    **SHARE,
}
# These two do not count for the identity: any run that succeeds has read the same rows.
ON_BAD_ROW: dict[str, Any] = {
    "doc": "whether unusable rows stop the run or are skipped",
    "default": "stop",
    "choices": ("stop", "skip"),
    "identity": False,
}
MAX_BAD_SHARE: dict[str, Any] = {
    "doc": "largest share of the rows that may be skipped; more is an error",
    "default": 0.05,
    "identity": False,
    **SHARE,
}
# Those above that cannot change test rows, see `data.base.scored_values`.
UNSCORED = ("max_overlap", "on_bad_row", "max_bad_share")
