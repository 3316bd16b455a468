"""The run that the report describes in detail: the one to ship, or the nearest to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.report.guesses import guesses_of
from talr_cli.report.recommend import NothingWithin, Recommendation, recommend
from talr_cli.statistics.abilities import Ability, abilities_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, RunsByPath

BOUND = 0.02  # of the general score, as in conf/recommend.yaml


@dataclass(frozen=True)
class Shipping:
    """The recommendation for a group, and the details of its run.

    Attributes:
        run, base: Directory and results of the run and of its base model.
        abilities: What the run lost and won against the base model.
    """

    found: Recommendation | NothingWithin
    run: tuple[Path, Results]
    base: tuple[Path, Results]
    abilities: Sequence[Ability]


def shipping(group: Group, runs: RunsByPath) -> Shipping | None:
    """The recommendation for a group; None if nothing can be compared."""
    try:
        found = recommend(group, runs, BOUND)
    except UserError:
        return None
    path = found.nearest if isinstance(found, NothingWithin) else found.candidates[0].path
    base = next(one for one, results in group.by_path(runs).items() if results is group.base)
    pair = replace(group, runs=[runs[base], runs[path]])  # so that only their samples are read
    known = abilities_of(runs[base], runs[path], guesses_of(pair, runs))
    return Shipping(found, (path, runs[path]), (base, runs[base]), known)
