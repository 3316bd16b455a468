"""`talr recommend`: the run of a study to ship, why, what it gives up and how sure that is."""

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

if TYPE_CHECKING:
    from talr_cli.report.recommend import Recommendation
    from talr_cli.statistics.paired import Difference
    from talr_cli.statistics.pairs import Results

ALTERNATIVES = 3


def main(arguments: Sequence[str]) -> None:
    composition.run("recommend", print_recommendations, arguments)


def print_recommendations(composed: Composed[RecommendConfig]) -> None:
    """One for each model and dataset of the study; those that have none are named at the end."""
    config = composed.config
    runs = scored_runs(Path(config.runs_dir), config.study)
    from talr_cli.report.as_json import check_target, give
    from talr_cli.report.recommend import recommend
    from talr_cli.statistics.groups import comparable

    check_target(config.json)
    groups, failures = {}, []
    for group in comparable(runs.values()):
        try:
            groups[group.title] = recommend(group, runs, config.max_general_loss)
        except UserError as error:
            failures.append(str(error))

    def show() -> None:
        for title, found in groups.items():
            print(f"{printable(title)}:")
            for line in as_lines(found, config.max_general_loss):
                print(f"  {printable(line)}")

    content = {"recommended": [as_record(*one) for one in groups.items()], "failed": failures}
    give("recommend", config.json, content, show)
    if failures:
        raise UserError("; ".join(failures))


def as_record(title: str, found: Recommendation) -> dict[str, Any]:
    """What is said of one model and dataset, for programs."""
    from talr_cli.statistics.pairs import point

    candidates = [
        {"path": str(one.path), "picked": one.picked}
        | dict(zip(("domain", "general"), point(one.results), strict=True))
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
        "optimism": found.optimism,
        "left_out": {str(path): reason for path, reason in found.left_out.items()},
    }


def as_lines(found: Recommendation, bound: float) -> list[str]:
    """What is said of one model and dataset; changes with their 95% intervals."""
    from talr_cli.statistics.pairs import point

    chosen, *others = found.candidates
    domain, general = point(chosen.results)
    lines = [
        f"ship     {chosen.path.name}",
        f"why      the best domain score of {len(found.candidates)} of {found.runs} runs: those "
        f"that lose at most {bound:g} of the general score",
        f"domain   {domain:.3f}, {_change(found.gain)} from the base",
        f"general  {general:.3f}, {_change(found.loss)} from the base",
    ]
    if found.given_up is None:
        lines.append("costs    nothing of the domain score: it is the best without the bound too")
    else:
        lines.append(
            f"costs    {_change(found.given_up)} on the domain against "
            f"{_setting(found.unbound)}, the best without the bound"
        )
    if not found.gain.is_distinguishable:
        lines.append("but      that gain on the domain may be noise")
    lines.append(
        f"sure     on resampled test items it keeps within the bound in {found.holds:.0%} and is "
        f"picked again in {chosen.picked:.0%}; picking the best adds {found.optimism:.3f} to a "
        "domain score by chance"
    )
    for other in others[:ALTERNATIVES]:
        domain, general = point(other.results)
        lines.append(
            f"or       {_setting(other.results)}: domain {domain:.3f}, general {general:.3f}, "
            f"picked in {other.picked:.0%}"
        )
    lines += [f"left out: {path.name}: {reason}" for path, reason in found.left_out.items()]
    lines.append(f"export   talr export run={chosen.path} out=DIRECTORY")
    return lines


def _change(change: Difference) -> str:
    return f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _setting(results: Results) -> str:
    from talr_cli.statistics.pairs import run_label

    run = results["run"]
    return f"{run_label(results)} lr {run['lr']:g} seed {run['seed']}"
