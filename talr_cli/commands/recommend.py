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
from talr_cli.printable import printable, rate_text
from talr_cli.runs.study import scored_runs

if TYPE_CHECKING:
    from talr_cli.report.recommend import Again, NothingWithin, Recommendation
    from talr_cli.statistics.pairs import Results

ALTERNATIVES = 3


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 when there is a run to ship of each model and dataset, 1 when one has none."""
    codes: list[int] = []
    composition.run(
        "recommend", lambda composed: codes.append(print_recommendations(composed)), arguments
    )
    return max(codes, default=0)


def print_recommendations(composed: Composed[RecommendConfig]) -> int:
    """One for each model and dataset of the study; the exit code.

    Raises:
        UserError: Of one nothing can be compared; the others are printed before.
    """
    config = composed.config
    runs = scored_runs(Path(config.runs_dir), config.study)
    from talr_cli.report.as_json import check_target, give
    from talr_cli.report.recommend import NothingWithin, recommend
    from talr_cli.report.stale import stale_lines
    from talr_cli.statistics.groups import comparable

    check_target(config.json)
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
            if isinstance(found, NothingWithin):
                lines = none_lines(found, config.max_general_loss)
            else:
                lines = as_lines(found, config.max_general_loss)
            for line in lines:
                print(f"  {printable(line)}")

    made = {title: one for title, one in groups.items() if not isinstance(one, NothingWithin)}
    content = {
        "recommended": [as_record(*one) for one in made.items()],
        "none_within": [title for title in groups if title not in made],
        "failed": failures,
    }
    give("recommend", config.json, content, show)
    if failures:
        raise UserError("; ".join(failures))
    return 1 if content["none_within"] else 0


def none_lines(found: NothingWithin, bound: float) -> list[str]:
    """What is said where no run keeps within the bound."""
    return [
        f"ship     nothing: no run loses at most {bound:g} of the general score",
        f"nearest  {found.nearest.name}, which loses {found.loss:.3f}; raise max_general_loss or "
        "train at a smaller lr",
    ]


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
        "again": None if found.again is None else asdict(found.again),
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
        f"domain   {domain:.3f}, {found.gain.text} from the base",
        f"general  {general:.3f}, {found.loss.text} from the base",
    ]
    if found.given_up is None:
        lines.append("costs    nothing of the domain score: it is the best without the bound too")
    else:
        lines.append(
            f"costs    {found.given_up.text} on the domain against "
            f"{_setting(found.unbound)}, the best without the bound"
        )
    if not found.gain.is_distinguishable:
        lines.append("but      that gain on the domain may be noise")
    lines.append(
        f"sure     of this checkpoint: on resampled test items it keeps within the bound in "
        f"{found.holds:.0%} and is picked again in {chosen.picked:.0%}; picking the best adds "
        f"{found.optimism:.3f} to a domain score by chance"
    )
    lines.append(_again_line(found.again))
    for other in others[:ALTERNATIVES]:
        domain, general = point(other.results)
        lines.append(
            f"or       {_setting(other.results)}: domain {domain:.3f}, general {general:.3f}, "
            f"picked in {other.picked:.0%}"
        )
    lines += [f"left out: {path.name}: {reason}" for path, reason in found.left_out.items()]
    lines.append(f"export   talr export run={chosen.path} out=DIRECTORY")
    return lines


def _again_line(again: Again | None) -> str:
    if again is None:
        return (
            "again    of the method nothing is known: no setting has several seeds that would tell "
            "how far another training lies"
        )
    domain, general = again.deviation
    seeds = f"{again.seeds} seed{'s' * (again.seeds > 1)}"
    return (
        f"again    over seeds and items: another run of this setting ({seeds} so far) keeps within "
        f"the bound in {again.holds:.0%} and its setting is picked in {again.picked:.0%}; runs "
        f"deviate by {domain:.3f} and {general:.3f}, known from {again.source}"
    )


def _setting(results: Results) -> str:
    from talr_cli.statistics.pairs import run_label

    run = results["run"]
    return f"{run_label(results)} lr {rate_text(run['lr'])} seed {run['seed']}"
