"""Runs that ended without scores: a mean over the other seeds is one over those that went well.

Knows run directories; results.json says nothing of them.
"""

from collections.abc import Iterable
from pathlib import Path

from talr_cli.printable import printable
from talr_cli.runs.run_directory import RunDirectory


def unscored(pairs: Iterable[Path]) -> dict[Path, str]:
    """{run directory: why it has no scores} of the runs that diverged, failed or lost them.

    Args:
        pairs: The folders of model and dataset that hold the runs.
    """
    found = {}
    for path in (one for pair in dict.fromkeys(pairs) for one in sorted(pair.glob("*/"))):
        run = RunDirectory(path)
        if not run.status.exists() or run.results.exists():
            continue
        status = run.read_status()
        if status.state in ("diverged", "failed"):
            why = (status.reason or "").strip().splitlines()
            found[path] = ": ".join([f"it {status.state}", *why[-1:]])
        elif status.state == "evaluated":
            found[path] = "its results.json is gone: repeat its command"
    return found


def unscored_lines(runs: Iterable[Path]) -> list[str]:
    """A line for each run of a study that has no scores.

    Args:
        runs: The directories of its scored runs.
    """
    studies = dict.fromkeys(path.parents[1] for path in runs)
    pairs = (pair for study in studies for pair in sorted(study.glob("*/")))
    return [printable(f"left out: {path.name}: {why}") for path, why in unscored(pairs).items()]
