"""Which run of a study to ship: the best domain score among those that forget little enough.

How sure that is of the checkpoint that is shipped comes from a bootstrap over test items, the same
draws for all runs: whether the bound still holds, and which run would have been picked. Resampling
picks anew each time, so that the choice of a maximum is part of what is repeated. How sure it is of
the setting, if everything is trained again with another seed, has the deviation between runs
besides, where the study knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from talr_cli.errors import UserError
from talr_cli.statistics.groups import Group
from talr_cli.statistics.items import span
from talr_cli.statistics.paired import Difference, UnpairedError, difference
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    has_both_scores,
    is_base,
    point,
    score_of,
    section_of,
)
from talr_cli.statistics.seeds import seed_groups
from talr_cli.statistics.settings import deviation

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 4000
TOLERANCE = 1e-9  # of rounding: a loss of the bound itself is within it


@dataclass(frozen=True)
class Candidate:
    """A run within the bound, and in which share of the resamples it is the one to pick."""

    path: Path
    results: Results
    picked: float


@dataclass(frozen=True)
class Again:
    """What further trainings would come to, over seeds and items.

    Attributes:
        holds: How likely another run of the recommended setting keeps within the bound.
        picked: How likely its setting is the one to pick, when all are trained again.
        seeds: How many runs the recommended setting has.
        deviation: Between runs of one setting, of the domain and the general score.
        source: What that is known from.
    """

    holds: float
    picked: float
    seeds: int
    deviation: tuple[float, float]
    source: str


@dataclass(frozen=True)
class Recommendation:
    """The run to ship of one model and dataset, and what speaks for and against it.

    Attributes:
        candidates: The runs within the bound, the recommended one first, then by domain score.
        runs: How many runs were compared.
        gain, loss: Change of the domain and the general score from the base model.
        given_up: Domain score against the best run without the bound; None where it is this one.
        unbound: That run.
        holds: Share of the resamples in which the recommended run keeps within the bound.
        left_out: Runs that were not compared, each with the reason.
        again: Of further trainings; None where no setting has several seeds.
        optimism: By how much the domain score of the picked run exceeds, on average over the
            resamples, what the run has on all items: what picking the best is worth by chance.
    """

    candidates: list[Candidate]
    runs: int
    gain: Difference
    loss: Difference
    given_up: Difference | None
    unbound: Results
    holds: float
    optimism: float
    left_out: dict[Path, str]
    again: Again | None


@dataclass(frozen=True)
class NothingWithin:
    """No run keeps within the bound; the nearest, and what it loses."""

    nearest: Path
    loss: float


def recommend(
    group: Group, runs: Mapping[Path, Results], bound: float
) -> Recommendation | NothingWithin:
    """Of a group of comparable runs, whose base model is among them.

    Args:
        runs: the results by run directory.
        bound: of the general score, the most that may be lost.

    Raises:
        UserError: Nothing can be compared.
    """
    base, trained, left_out = _compared(group, runs)
    # Of equal domain scores the first in this order is picked, here and in every resample.
    places = sorted(trained, key=lambda path: -point(trained[path])[1])
    compared = [trained[path] for path in places]
    losses = [point(base)[1] - point(one)[1] for one in compared]
    within = [place for place, loss in enumerate(losses) if loss <= bound + TOLERANCE]
    if not within:
        nearest = min(range(len(compared)), key=losses.__getitem__)
        return NothingWithin(places[nearest], losses[nearest])
    scores = [point(one)[0] for one in compared]
    order = sorted(within, key=lambda place: -scores[place])
    chosen = order[0]
    unbound = max(range(len(compared)), key=scores.__getitem__)

    import numpy as np

    generator = np.random.default_rng(0)
    domain = resampled([*compared, base], ["domain"], generator)
    tasks = [f"general/{task}" for task in sorted(base["general"]["tasks"])]
    general = resampled([*compared, base], tasks, generator)
    keeps = general[:, -1:] - general[:, :-1] <= bound + TOLERANCE  # [RESAMPLES, runs]
    picks = np.where(keeps, domain[:, :-1], -np.inf).argmax(axis=1)[keeps.any(axis=1)]
    shares = np.bincount(picks, minlength=len(compared)) / RESAMPLES
    resampled_best = domain[keeps.any(axis=1), picks]
    return Recommendation(
        candidates=[Candidate(places[one], compared[one], float(shares[one])) for one in order],
        runs=len(compared),
        gain=difference(base, compared[chosen], "domain"),
        loss=difference(base, compared[chosen], "general"),
        given_up=None
        if scores[unbound] == scores[chosen]
        else difference(compared[unbound], compared[chosen], "domain"),
        unbound=compared[unbound],
        holds=float(keeps[:, chosen].mean()),
        optimism=float((resampled_best - np.array(scores)[picks]).mean()) if len(picks) else 0.0,
        left_out=left_out,
        again=_again(group, compared, chosen, domain, general, bound),
    )


def _compared(
    group: Group, runs: Mapping[Path, Results]
) -> tuple[Results, dict[Path, Results], dict[Path, str]]:
    """The base model, the runs that can be compared with it, and why others cannot."""
    name = group.title
    own = group.by_path(runs)
    base = next((one for one in own.values() if is_base(one) and has_both_scores(one)), None)
    if base is None:
        why = group.note or "the base model was not scored"
        raise UserError(f"{name}: {why}: `talr eval` scores it")
    trained, left_out = {}, group.left_out_of(runs)
    for path, one in own.items():
        if one["training"]:
            reason = _why_not(base, one)
            if reason is None:
                trained[path] = one
            else:
                left_out[path] = reason
    if not trained:
        reasons = [f"{path.name}: {reason}" for path, reason in left_out.items()]
        raise UserError(
            f"{name}: no run can be compared with the base model: "
            f"{'; '.join(reasons) or 'there is none'}"
        )
    return base, trained, left_out


def _again(
    group: Group,
    compared: Sequence[Results],
    chosen: int,
    domain: np.ndarray,
    general: np.ndarray,
    bound: float,
) -> Again | None:
    """Of a study with one further training of each setting, on other items.

    Args:
        domain, general: As `resampled`, of the compared runs and the base model.
    """
    import numpy as np

    of_domain, of_general = (
        deviation(group.runs, "domain"),
        deviation(group.runs, "general"),
    )
    if of_domain is None or of_general is None:
        return None
    places = {id(one): place for place, one in enumerate(compared)}
    members = [[places[id(one)] for one in setting.runs] for setting in seed_groups(compared)]
    generator = np.random.default_rng(1)
    # A mean of few runs is not known either, nor is the deviation itself.
    spread = np.sqrt([1 + 1 / len(places) for places in members])
    scores = []
    for of_runs, found in zip((domain, general), (of_domain, of_general), strict=True):
        means = np.stack([of_runs[:, places].mean(axis=1) for places in members], axis=1)
        factor = np.sqrt(found.df / generator.chisquare(found.df, (RESAMPLES, 1)))
        noise = found.variance**0.5 * factor * generator.normal(size=means.shape)
        scores.append(means + spread * noise)
    own = next(number for number, places in enumerate(members) if chosen in places)
    keeps = general[:, -1:] - scores[1] <= bound + TOLERANCE  # [RESAMPLES, settings]
    picks = np.where(keeps, scores[0], -np.inf).argmax(axis=1)
    return Again(
        holds=float(keeps[:, own].mean()),
        picked=float(((picks == own) & keeps.any(axis=1)).mean()),
        seeds=len(members[own]),
        deviation=(of_domain.variance**0.5, of_general.variance**0.5),
        source=of_domain.source,
    )


def resampled(
    runs: Sequence[Results], parts: Sequence[str], generator: np.random.Generator
) -> np.ndarray:
    """Scores [RESAMPLES, runs], the plain mean over `parts`, on the same draws of items.

    With the noise of one more item on which two runs disagree: a few items on which all agree
    would else be sure of everything.
    """
    import numpy as np

    total = np.zeros((RESAMPLES, len(runs)))
    for part in parts:
        sections = [section_of(one, part) or {} for one in runs]
        keys = list(sections[0]["items"])
        scores = np.array([[section["items"][key] for section in sections] for key in keys])
        drawn = generator.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), RESAMPLES)
        total += drawn @ scores / len(keys)
        more = span(scores) ** 2 / 2 / len(keys) / max(1, len(keys) - 1)
        total += more**0.5 * generator.normal(size=total.shape)
    return total / len(parts)


def _why_not(base: Results, one: Results) -> str | None:
    """Why a run cannot be recommended; None where it can."""
    try:
        for part in PARTS:
            if score_of(one, part) is None:
                return f"{part} was not scored"
            difference(base, one, part)
    except UnpairedError as reason:
        return str(reason)
    return None
