"""`talr recommend`: which run of a study to ship, why, at what cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.config import composition
from talr_cli.config.commands import RecommendConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.printable import printable
from talr_cli.runs.study import scored_runs
from talr_cli.streams import fold_line

if TYPE_CHECKING:
    from talr_cli.report.recommend import Recommendation


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if there is a run to ship for each model and dataset, else 1."""
    return composition.run("recommend", print_recommendations, arguments) or 0


def print_recommendations(composed: Composed[RecommendConfig]) -> int:
    """Print a recommendation for each model and dataset of the study; returns the exit code.

    Raises:
        UserError: Some runs cannot be compared; the other shipped are printed first.
    """
    config = composed.config
    runs = scored_runs(Path(config.runs_dir), config.study)
    from talr_cli.report.as_json import emit
    from talr_cli.report.recommend import NothingWithin, recommend
    from talr_cli.report.recommend_text import as_lines, as_sentences
    from talr_cli.report.stale import stale_lines
    from talr_cli.statistics.groups import comparable

    groups, failures = {}, []
    for group in comparable(runs.values()):
        try:
            groups[group.title] = recommend(group, runs, config.max_general_loss)
        except UserError as error:
            failures.append(str(error))

    def show() -> None:
        for line in stale_lines(runs):
            print(line)
        for title, found in groups.items():
            print(f"{printable(title)}:")
            for line in as_lines(as_sentences(found, config.max_general_loss)):
                is_command = line.startswith("export")
                print(f"  {line}" if is_command else fold_line(f"  {line}", hang=9))

    shipped = {title: one for title, one in groups.items() if not isinstance(one, NothingWithin)}
    content = {
        "recommended": [to_json(*one) for one in shipped.items()],
        "none_within": [title for title in groups if title not in shipped],
        "failed": failures,
    }
    emit("recommend", config.json, content, show)
    if failures:
        raise UserError("; ".join(failures))
    return 1 if content["none_within"] else 0


def to_json(title: str, found: Recommendation) -> dict[str, Any]:
    """The recommendation for one model and dataset, for JSON."""
    from talr_cli.statistics.pairs import both_scores

    candidates = [
        {"path": str(one.path), "picked": one.picked}
        | dict(zip(("domain", "general"), both_scores(one.results), strict=True))
        for one in found.candidates
    ]
    return {
        "group": title,
        "ship": candidates[0]["path"],
        "candidates": candidates,
        "runs": found.runs,
        "gain": asdict(found.gain),
        "loss": asdict(found.loss),
        "given_up": None if found.given_up is None else asdict(found.given_up),
        "holds": found.holds,
        "again": None if found.again is None else asdict(found.again),
        "optimism": found.optimism,
        "left_out": {str(path): reason for path, reason in found.left_out.items()},
    }
