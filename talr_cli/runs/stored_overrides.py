"""The overrides that were typed for a run, as they would have to be typed now."""

from __future__ import annotations

import re
from pathlib import Path

from talr_cli.runs.listing import study_location
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import RunDirectory

_QUOTED = re.compile(r"'([A-Za-z/][\w./@-]*)'")  # to Hydra it is the same text without quotes
_LOCATION = re.compile(r"^(study|runs_dir): '?([^'\n]*)'?$", re.MULTILINE)
_NEED_QUOTES = {"true", "false", "null", "nan", "inf"}  # without quotes they are not text


def current_overrides(run: RunDirectory) -> list[str]:
    """The overrides of a run, without quotes that Hydra does not need.

    If its study was copied, moved or renamed, `study` and `runs_dir` are those of today.

    Raises:
        UserError: They cannot be read.
    """
    typed = [_QUOTED.sub(_unquoted, line) for line in run.read_overrides()]
    moved = _moved_to(run)
    return [one for one in typed if one.partition("=")[0] not in moved] + [
        f"{key}={value}" for key, value in moved.items()
    ]


def _moved_to(run: RunDirectory) -> dict[str, str]:
    """The study and runs_dir of a run, if they have changed since it was made."""
    location = study_location(run)
    if location is None:
        return {}
    runs_dir, study = location
    try:  # parsing the YAML would take half of the time of a large study's report
        stored = dict(_LOCATION.findall(read_text(run.config, "replace")))
    except (OSError, ValueError):
        return {}
    moved = {}
    if stored.get("study", study) != study:
        moved["study"] = study
    if _is_elsewhere(runs_dir, Path(stored.get("runs_dir", runs_dir))):
        moved["runs_dir"] = str(runs_dir)
    return moved


def _is_elsewhere(runs_dir: Path, stored: Path) -> bool:
    try:
        before = stored.expanduser()
        # A relative runs_dir has not changed if the whole project was moved.
        now = runs_dir if before.is_absolute() else Path(*runs_dir.parts[-len(before.parts) :])
        return now != before and before.resolve() != runs_dir
    except (OSError, ValueError, RuntimeError):  # the home of a user who is not here, or no path
        return True


def _unquoted(quoted: re.Match[str]) -> str:
    return quoted[0] if quoted[1].lower() in _NEED_QUOTES else quoted[1]
