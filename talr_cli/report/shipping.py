"""The run of a group that a report is about: the one to ship, or the one that comes nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.report.guesses import guesses_of
from talr_cli.report.recommend import NothingWithin, Recommendation, recommend
from talr_cli.statistics.abilities import Ability, abilities_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results

BOUND = 0.02  # of the general score, as in conf/recommend.yaml


@dataclass(frozen=True)
class Shipping:
    """What is recommended for a group.

    Attributes:
        run, base: Directory and results of the run that this is about, and of its base model.
        abilities: What the run lost and won against the base model.
    """

    found: Recommendation | NothingWithin
    run: tuple[Path, Results]
    base: tuple[Path, Results]
    abilities: Sequence[Ability]


def shipping(group: Group, runs: Mapping[Path, Results]) -> Shipping | None:
    """What to ship of a group; None where nothing can be compared.

    Args:
        runs: The results of the study by run directory.
    """
    try:
        found = recommend(group, runs, BOUND)
    except UserError:
        return None
    path = found.nearest if isinstance(found, NothingWithin) else found.candidates[0].path
    base = next(place for place, one in group.by_path(runs).items() if one is group.base)
    narrow = replace(group, runs=[runs[base], runs[path]])  # only their samples are read
    known = abilities_of(runs[base], runs[path], guesses_of(narrow, runs))
    return Shipping(found, (path, runs[path]), (base, runs[base]), known)
