"""What was typed to make a run, so that it can be typed again, from what its directory keeps."""

from __future__ import annotations

import re
from pathlib import Path

from talr_cli.runs.listing import place_of
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import RunDirectory

_QUOTED = re.compile(r"'([A-Za-z/][\w./@-]*)'")  # Hydra takes it for the same text without quotes
_PLACE = re.compile(r"^(study|runs_dir): '?([^'\n]*)'?$", re.MULTILINE)
_NO_TEXT = {"true", "false", "null", "nan", "inf"}  # these need their quotes to be text


def overrides(run: RunDirectory) -> list[str]:
    """The overrides of a run, without quotes that Hydra does not need.

    Of one whose study was copied, moved or renamed those that find it where it lies now.

    Raises:
        UserError: They cannot be read.
    """
    typed = [_QUOTED.sub(_unquoted, line) for line in run.read_overrides()]
    now = _moved(run)
    return [one for one in typed if one.partition("=")[0] not in now] + [
        f"{key}={value}" for key, value in now.items()
    ]


def _moved(run: RunDirectory) -> dict[str, str]:
    """The study and runs_dir of a run, as far as they are others than when it was made."""
    place = place_of(run)
    if place is None:
        return {}
    runs_dir, study = place
    try:  # to parse all of it would take a large study's report half its time
        made = dict(_PLACE.findall(read_text(run.config, "replace")))
    except (OSError, ValueError):
        return {}
    now = {}
    if made.get("study", study) != study:
        now["study"] = study
    before = Path(made.get("runs_dir", runs_dir)).expanduser()
    # A relative one is looked for from where its project lies by now.
    at = Path(*runs_dir.parts[-len(before.parts) :]) if not before.is_absolute() else runs_dir
    if at != before and before.resolve() != runs_dir:
        now["runs_dir"] = str(runs_dir)
    return now


def _unquoted(quoted: re.Match[str]) -> str:
    return quoted[0] if quoted[1].lower() in _NO_TEXT else quoted[1]
