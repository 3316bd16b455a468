"""Which method forgets least at an equal domain score: the fair question between methods.

At one learning rate a method that learns less also forgets less, which says nothing of the method.
So each method is a curve, domain against general score: from the base model through its learning
rates, and one along each training that has points. Two methods' general scores are compared where
their curves first reach the same gain on the domain. Curves go through the rates and points that
both methods have, so that neither is known more closely; where they share fewer than two rates, as
an adapter and full fine-tuning often do, through those of each.

Scores are resampled with their errors, over items and, where the deviation between runs is known,
over runs: all points of a training deviate together. Between two points a curve is unknown. A
straight line cuts its corners, which favours a method whose points lie closer. So intervals are
widened by the most that a monotone parabola through both points can lie off the line: by the larger
of the two curves' values and not their sum, as both bend the same way. This comparison is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.paired import LEVEL, with_interval
from talr_cli.statistics.pairs import PARTS, has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, only_settings, seed_groups
from talr_cli.statistics.settings import Scores, scores_of

REFERENCE = "sft"
SHARE = 0.75  # of the gain that both methods reach: not where one of them has just turned
DRAWS = 4000


@dataclass(frozen=True)
class Matched:
    """A method against the reference, at one domain score.

    Attributes:
        domain: The score at which they are compared.
        reference, general: The general scores of the reference and the method there, the mean over
            their curves.
        low, high: Interval of the difference; those of all compared methods are right together in
            95% of studies (Bonferroni).
        p: Two-sided, adjusted likewise.
        curves: What the curves go through, in words; of both, where that is not the same.
        of_methods: Whether errors include the deviation between runs; else they are those of these
            checkpoints.
    """

    method: str
    domain: float
    reference: float
    general: float
    low: float
    high: float
    p: float
    curves: str
    of_methods: bool

    @property
    def difference(self) -> float:
        return self.general - self.reference

    @property
    def text(self) -> str:
        return with_interval(self.difference, self.low, self.high)

    @property
    def verdict(self) -> str:
        if not self.of_methods:
            return "undecided: one seed"
        if self.p >= LEVEL:
            return "not distinguishable"
        return "forgets less" if self.difference > 0 else "forgets more"


Point = tuple[float, float]  # learning rate and share of the training


def matched(group: Group) -> list[Matched]:
    """Every method against sft, the one that keeps most first; empty where none can be compared."""
    base = next((one for one in group.runs if is_base(one) and has_both_scores(one)), None)
    settings = seed_groups([one for one in group.runs if has_both_scores(one)])
    by_method: dict[str, dict[Point, SeedGroup]] = {}
    for (label, lr, share), one in only_settings(settings).items():
        by_method.setdefault(label, {})[lr, share] = one
    if base is None or REFERENCE not in by_method:
        return []
    named = {
        _name(method, point): one
        for method, points in by_method.items()
        for point, one in points.items()
    }
    scores = scores_of(named, base, group.runs)
    if "base" not in scores.place:
        return []
    points = {
        method: {point for point in of if _name(method, point) in scores.place}
        for method, of in by_method.items()
    }
    drawn = _Draws.of(scores)
    found = [
        _against_reference(method, points[method], points[REFERENCE], scores, drawn)
        for method in points
        if method != REFERENCE
    ]
    known = [one for one in found if one is not None]
    compared = [one.told(len(known), drawn.of_methods) for one in known]
    return sorted(compared, key=lambda one: -one.difference)


def general_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """The general score where each curve first reaches a gain on the domain.

    Args:
        domain, general: Scores [resamples, points]; the first point is the base model.

    Returns:
        [resamples]; of a curve that never gains so much, the value where it gains most.
    """
    before, after, share, reached = _between(domain, gain)
    every = np.arange(len(domain))
    between = general[every, before] + share * (general[every, after] - general[every, before])
    return np.where(reached, between, general[every, domain.argmax(axis=1)])


def bend_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """By how much a curve may lie above or below the straight line that `general_at` follows.

    A parabola through both points that does not turn between them is off by at most s (1 - s) times
    their difference, s being how far it is between them.

    Returns:
        [resamples]; 0 of a curve that never gains so much.
    """
    before, after, share, reached = _between(domain, gain)
    every = np.arange(len(domain))
    step = np.abs(general[every, after] - general[every, before])
    return np.where(reached, share * (1 - share) * step, 0.0)


def _between(
    domain: np.ndarray, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where each curve first reaches a gain: the points before and after it, and how far between.

    The last array says whether it reaches the gain at all.
    """
    gains = domain - domain[:, :1]
    reached = gains >= gain
    every = np.arange(len(gains))
    after = np.maximum(reached.argmax(axis=1), 1)
    before = after - 1
    step = gains[every, after] - gains[every, before]
    share = (gain - gains[every, before]) / np.where(step > 0, step, 1.0)
    return before, after, share, reached.any(axis=1)


@dataclass(frozen=True)
class _Draws:
    """Scores of all settings, as measured in the first row, then resampled: [1 + DRAWS, settings].

    `of_methods` as in `Matched`.
    """

    domain: np.ndarray
    general: np.ndarray
    of_methods: bool

    @classmethod
    def of(cls, scores: Scores) -> _Draws:
        generator = np.random.default_rng(0)
        trainings = [name.rpartition(" @")[0] for name in scores.place]
        place = np.unique(trainings, return_inverse=True)[1]
        drawn, known = [], []
        for part in PARTS:
            # As in `Scores.contrast`: one more item on which two settings disagree.
            items = scores.items[part] + np.diag(np.full(len(place), scores.unit[part] / 2))
            mean = scores.means[part]
            total = generator.multivariate_normal(mean, items, DRAWS, method="eigh")
            deviation = scores.deviations[part]
            if deviation is not None:
                # The deviation is itself an estimate: errors of runs are Student's t.
                chance = generator.chisquare(deviation.df, (DRAWS, 1))
                error = np.sqrt(deviation.variance * deviation.df / chance)
                of_training = generator.normal(size=(DRAWS, place.max() + 1))[:, place]
                of_mean = error / np.sqrt(np.maximum(scores.runs, 1))
                total += of_mean * of_training * (scores.runs > 0)
            drawn.append(np.vstack([mean, total]))
            known.append(deviation)
        return cls(drawn[0], drawn[1], None not in known)

    def most_gain(self, places: Sequence[int]) -> float:
        """The largest gain on the domain of a curve as it was measured."""
        return float(self.domain[0, places].max() - self.domain[0, places[0]])

    def at(self, gain: float, curves: Collection[Sequence[int]]) -> tuple[np.ndarray, float]:
        """The general score at a gain [1 + DRAWS], the mean over curves; how far it may bend."""
        along = [(self.domain[:, places], self.general[:, places]) for places in curves]
        values = np.mean([general_at(*curve, gain) for curve in along], axis=0)
        return values, float(np.mean([bend_at(x[:1], y[:1], gain) for x, y in along]))


@dataclass(frozen=True)
class _Compared:
    """A method against the reference, before it is known how many methods are compared.

    Attributes:
        differences: [DRAWS], along straight lines.
        bend: By how much they may be off, as curves may bend between points.
    """

    method: str
    domain: float
    reference: float
    general: float
    differences: np.ndarray
    bend: float
    curves: str

    def told(self, methods: int, of_methods: bool) -> Matched:
        """With an interval and a p that are corrected for so many methods."""
        side = LEVEL / 2 / methods
        low, high = np.quantile(self.differences, [side, 1 - side])
        below = int((self.differences - self.bend <= 0).sum())
        above = int((self.differences + self.bend >= 0).sum())
        return Matched(
            method=self.method,
            domain=self.domain,
            reference=self.reference,
            general=self.general,
            low=float(low) - self.bend,
            high=float(high) + self.bend,
            p=min(1.0, methods * 2 * (1 + min(below, above)) / (1 + DRAWS)),
            curves=self.curves,
            of_methods=of_methods,
        )


def _against_reference(
    method: str, own: set[Point], reference: set[Point], scores: Scores, drawn: _Draws
) -> _Compared | None:
    """None where one of the two has no curve, or gains nothing on the domain.

    Args:
        own, reference: The points of the method and of the reference.
    """
    both = own & reference
    is_shared = len(_rates(both)) > 1
    points = {REFERENCE: both, method: both} if is_shared else {REFERENCE: reference, method: own}
    curves = {one: _curves(one, of, scores) for one, of in points.items()}
    if not all(curves.values()):
        return None
    gain = SHARE * min(
        drawn.most_gain(_places(one, [(lr, 1.0) for lr in _rates(of)], scores))
        for one, of in points.items()
    )
    if gain <= 0:
        return None
    reach = {
        one: {name for name, places in of.items() if drawn.most_gain(places) >= gain}
        for one, of in curves.items()
    }
    if is_shared:
        reach = dict.fromkeys(reach, reach[REFERENCE] & reach[method])
    along = {
        one: {name: places for name, places in of.items() if name in reach[one]}
        for one, of in curves.items()
    }
    of_reference, bend_of_reference = drawn.at(gain, along[REFERENCE].values())
    general, bend = drawn.at(gain, along[method].values())
    told = ", ".join(along[method])
    if not is_shared:
        told = f"{told}; of {REFERENCE} {', '.join(along[REFERENCE])}"
    return _Compared(
        method=method,
        domain=float(drawn.domain[0, scores.place["base"]]) + gain,
        reference=float(of_reference[0]),
        general=float(general[0]),
        differences=(general - of_reference)[1:],
        bend=max(bend, bend_of_reference),
        curves=told,
    )


def _rates(points: Collection[Point]) -> list[float]:
    """The learning rates of the whole trainings."""
    return sorted(lr for lr, share in points if share == 1)


def _curves(method: str, points: Collection[Point], scores: Scores) -> dict[str, list[int]]:
    """{what a curve goes through, in words: places in the scores, the base model's first}.

    A single training without points is no curve: nothing is known between it and the base model.
    """
    rates = _rates(points)
    along = {}
    if len(rates) > 1:
        along[f"{len(rates)} rates"] = [(lr, 1.0) for lr in rates]
    for lr in rates:
        path = sorted(point for point in points if point[0] == lr)
        if len(path) > 1:
            along[f"{len(path)} points of {rate_text(lr)}"] = path
    return {name: _places(method, path, scores) for name, path in along.items()}


def _places(method: str, points: Sequence[Point], scores: Scores) -> list[int]:
    """The places of points in the scores, behind that of the base model."""
    return [scores.place["base"], *(scores.place[_name(method, point)] for point in points)]


def _name(method: str, point: Point) -> str:
    return f"{method} {rate_text(point[0])} @{point[1]:g}"


def headline(found: Sequence[Matched]) -> str:
    """One line on the method that keeps most and on the verdicts; empty without any comparison."""
    if not found:
        return ""
    best = found[0]
    told = (
        f"at an equal domain score ({best.domain:.3f}) {best.method} keeps {best.text} "
        f"of the general score against {REFERENCE}"
    )
    if not best.of_methods:
        return f"{told}; undecided: one seed, of these checkpoints"
    said = [
        f"{verdict}: {', '.join(names)}"
        for verdict in ("forgets less", "forgets more")
        if (names := [one.method for one in found if one.verdict == verdict])
    ]
    return f"{told}; {'; '.join(said) or 'of no method is its difference told from noise'}"
