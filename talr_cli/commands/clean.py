"""`talr clean`: delete files that are not needed; models only if asked for, scores never."""

from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import CleanConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.models.sources import cache_dir
from talr_cli.printable import printable
from talr_cli.runs import leftovers
from talr_cli.runs.leftovers import Leftover
from talr_cli.runs.listing import find_runs, format_size


def main(arguments: Sequence[str]) -> None:
    overrides = ["dry_run=true" if one == "--dry-run" else one for one in arguments]
    composition.run("clean", clean, overrides)


def clean(composed: Composed[CleanConfig]) -> None:
    """Find the leftovers, delete them unless `dry_run`, and print what is freed."""
    config = composed.config
    from talr_cli.report.as_json import emit

    found = _leftovers(config)
    deleted = [] if config.dry_run else leftovers.delete(found)
    paths = {one.path for one in deleted}
    items = [
        {"path": str(one.path), "why": one.why, "bytes": one.size, "deleted": one.path in paths}
        for one in found
    ]
    emit("clean", config.json, {"items": items}, lambda: _print(found, deleted, config.dry_run))


def _leftovers(config: CleanConfig) -> list[Leftover]:
    runs_dir = Path(config.runs_dir)
    try:
        runs = find_runs(runs_dir, config.study)
    except UserError:
        if config.study is not None:
            raise
        runs = []  # there may still be leftovers in the cache
    found = [one for run in runs for one in leftovers.run_leftovers(run, config.models)]
    for study in dict.fromkeys(run.study for run in runs):
        found += leftovers.unused_scores(runs_dir / study, config.unused_days)
    if config.study is None:
        found += leftovers.cache_leftovers(cache_dir(), config.unused_days, config.models)
    return found


def _print(found: Sequence[Leftover], deleted: Sequence[Leftover], dry_run: bool) -> None:
    for why in dict.fromkeys(one.why for one in found):
        print(f"{why}:")
        for one in found:
            if one.why == why:
                in_use = "" if dry_run or one in deleted else "  in use, so kept"
                print(f"  {format_size(one.size):>9}  {printable(str(one.path))}{in_use}")
    size = format_size(sum(one.size for one in (found if dry_run else deleted)))
    if not found:
        print("there is nothing to delete: all files are needed")
    elif dry_run:
        print(f"{size} would be freed: nothing was deleted")
    else:
        print(f"{size} freed")
