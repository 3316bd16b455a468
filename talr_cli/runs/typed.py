"""What was typed to make a run, so that it can be typed again, from what its directory keeps."""

from __future__ import annotations

import re

from talr_cli.runs.run_directory import RunDirectory

_QUOTED = re.compile(r"'([A-Za-z/][\w./@-]*)'")  # Hydra takes it for the same text without quotes
_NO_TEXT = {"true", "false", "null", "nan", "inf"}  # these need their quotes to be text


def overrides(run: RunDirectory) -> list[str]:
    """The overrides of a run, without quotes that Hydra does not need.

    Raises:
        UserError: They cannot be read.
    """
    return [_QUOTED.sub(_unquoted, line) for line in run.read_overrides()]


def _unquoted(quoted: re.Match[str]) -> str:
    return quoted[0] if quoted[1].lower() in _NO_TEXT else quoted[1]
