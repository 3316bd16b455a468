"""Which run of a study to ship: the best domain score among the runs that forget little enough.

A bootstrap over test items, with the same draws for all runs, tells how certain the choice of the
checkpoint is: how often it keeps within the bound, and how often it is picked. Each resample picks
again, so that the effect of taking a maximum is included. How certain the choice of the setting is,
if everything is trained again with other seeds, also needs the variance between runs, if known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talr_cli.errors import UserError
from talr_cli.report.unscored import unscored
from talr_cli.statistics.groups import Group
from talr_cli.statistics.items import span
from talr_cli.statistics.paired import Difference, UnpairedError, difference, paired_tasks
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    RunsByPath,
    both_scores,
    has_both_scores,
    is_base,
    score_of,
    section_of,
    tasks_of,
)
from talr_cli.statistics.seeds import seed_groups
from talr_cli.statistics.settings import run_variances

RESAMPLES = 4000
TOLERANCE = 1e-9  # a loss equal to the bound, up to rounding, is within it


@dataclass(frozen=True)
class Candidate:
    """A run within the bound, and the share of resamples that pick it."""

    path: Path
    results: Results
    picked: float


@dataclass(frozen=True)
class Again:
    """What to expect if everything is trained again, over seeds and items.

    Attributes:
        holds: Probability that another run of the recommended setting keeps within the bound.
        picked: Probability that this setting is picked again.
        seeds: Number of runs of the recommended setting.
        deviation: Standard deviations between runs of one setting, of domain and general score.
        source: The settings from which they are estimated.
    """

    holds: float
    picked: float
    seeds: int
    deviation: tuple[float, float]
    source: str


@dataclass(frozen=True)
class Recommendation:
    """The run to ship for one model and dataset, and how certain and costly the choice is.

    Attributes:
        candidates: The runs within the bound, sorted by domain score; the first is recommended.
        runs: Number of runs that were compared.
        gain, loss: Change of the domain and the general score from the base model.
        given_up: The domain score minus that of the best run without the bound; None if that is the
            recommended run.
        unbound: The best run without the bound.
        holds: Share of resamples in which the recommended run keeps within the bound.
        optimism: How much picking the best run inflates its domain score: the mean over resamples
            of the picked run's score in the resample minus its score on all items.
        left_out: Runs that were not compared, each with the reason; also those that diverged or
            failed, which `again` does not count.
        again: What to expect of further trainings; None if no setting has several seeds.
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
    """No run keeps within the bound: the run that loses least, and its loss."""

    nearest: Path
    loss: float


def recommend(group: Group, runs: RunsByPath, bound: float) -> Recommendation | NothingWithin:
    """The run of a group to ship.

    Args:
        bound: The largest acceptable loss of the general score.

    Raises:
        UserError: No run can be compared with a base model.
    """
    base, trained, left_out = _comparable_runs(group, runs)
    # Sorted by general score, as the first of the runs with equal domain scores is picked.
    paths = sorted(trained, key=lambda path: -both_scores(trained[path])[1])
    compared = [trained[path] for path in paths]
    losses = [both_scores(base)[1] - both_scores(one)[1] for one in compared]
    within = [index for index, loss in enumerate(losses) if loss <= bound + TOLERANCE]
    if not within:
        nearest = min(range(len(compared)), key=losses.__getitem__)
        return NothingWithin(paths[nearest], losses[nearest])
    scores = [both_scores(one)[0] for one in compared]
    order = sorted(within, key=lambda index: -scores[index])
    chosen = order[0]
    unbound = max(range(len(compared)), key=scores.__getitem__)
    generator = np.random.default_rng(0)
    domain = resampled([*compared, base], ["domain"], generator)
    general = resampled([*compared, base], sorted(tasks_of(base)), generator)
    keeps = general[:, -1:] - general[:, :-1] <= bound + TOLERANCE  # [RESAMPLES, runs]
    picks = np.where(keeps, domain[:, :-1], -np.inf).argmax(axis=1)[keeps.any(axis=1)]
    shares = np.bincount(picks, minlength=len(compared)) / RESAMPLES
    resampled_best = domain[keeps.any(axis=1), picks]
    return Recommendation(
        candidates=[Candidate(paths[one], compared[one], float(shares[one])) for one in order],
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


def _comparable_runs(
    group: Group, runs: RunsByPath
) -> tuple[Results, dict[Path, Results], dict[Path, str]]:
    """The base model, the runs that can be compared with it, and {run: reason} of the others.

    Raises:
        UserError: The base model was not scored, or there is no such run.
    """
    own = group.by_path(runs)
    base = next((one for one in own.values() if is_base(one) and has_both_scores(one)), None)
    if base is None:
        why = group.note or "the base model was not scored"
        raise UserError(f"{group.title}: {why}: `talr eval` with its model and dataset scores it")
    trained, left_out = {}, group.left_out_of(runs)
    left_out |= unscored(path.parent for path in own)
    for path, one in own.items():
        if one["training"]:
            reason = _unpaired_reason(base, one)
            if reason is None:
                trained[path] = one
            else:
                left_out[path] = reason
    if not trained:
        reasons = [f"{path.name}: {reason}" for path, reason in left_out.items()]
        raise UserError(
            f"{group.title}: no run can be compared with the base model: "
            f"{'; '.join(reasons) or 'none is of `talr train`'}"
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
    """What to expect of one further training of each setting, scored on other items.

    Args:
        chosen: The index of the recommended run.
        domain, general: As from `resampled`, for the compared runs and the base model.
    """
    of_domain, of_general = run_variances(group.runs, PARTS).values()
    if of_domain is None or of_general is None:
        return None
    index = {id(one): number for number, one in enumerate(compared)}
    members = [[index[id(one)] for one in setting.runs] for setting in seed_groups(compared)]
    generator = np.random.default_rng(1)
    # The error of a new run against the mean of the known ones, in standard deviations. The
    # variance is itself an estimate, hence the chi-squared factor.
    scale = np.sqrt([1 + 1 / len(runs) for runs in members])
    scores = []
    for of_runs, between in zip((domain, general), (of_domain, of_general), strict=True):
        means = np.stack([of_runs[:, runs].mean(axis=1) for runs in members], axis=1)
        factor = np.sqrt(between.df / generator.chisquare(between.df, (RESAMPLES, 1)))
        noise = between.variance**0.5 * factor * generator.normal(size=means.shape)
        scores.append(means + scale * noise)
    own = next(number for number, runs in enumerate(members) if chosen in runs)
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
    """Scores [RESAMPLES, runs], the unweighted mean over `parts`, on the same draws of items.

    Noise of one more item, on which two runs disagree, is added. Without it, a few items on which
    all runs agree would leave no uncertainty.
    """
    total = np.zeros((RESAMPLES, len(runs)))
    for part in parts:
        sections = [section_of(one, part) or {} for one in runs]
        keys = list(sections[0]["items"])
        scores = np.array([[section["items"][key] for section in sections] for key in keys])
        drawn = generator.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), RESAMPLES)
        total += drawn @ scores / len(keys)
        extra = span(scores) ** 2 / 2 / len(keys) / max(1, len(keys) - 1)
        total += extra**0.5 * generator.normal(size=total.shape)
    return total / len(parts)


def _unpaired_reason(base: Results, one: Results) -> str | None:
    """Why a run cannot be compared with the base model; None if it can."""
    try:
        for part in PARTS:
            if score_of(one, part) is None:
                return f"{part} was not scored"
            paired_tasks(base, one, part)
    except UnpairedError as reason:
        return str(reason)
    return None
