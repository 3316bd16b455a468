"""Which method forgets least at an equal domain score: the fair question between methods.

At one learning rate a method that learns less forgets less, which says nothing of the method. So
each method is a curve from the base model through its learning rates, and through the points along
each training where there are any; general scores are compared where two curves first reach the same
gain on the domain. Two methods are compared on the rates and points that both have.

Curves are drawn anew with the errors of their scores, over items and, where the deviation between
runs is known, over runs: all points of a training deviate together. Between runs a curve is not
known. Straight lines cut its corners, which favours a method whose runs lie closer; so intervals
are wider by as much as a parabola through both neighbours that only falls may lie off the line, of
the curve where that is more: both bend the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.paired import with_interval
from talr_cli.statistics.pairs import has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, seed_groups
from talr_cli.statistics.settings import Part, Scores, scores_of

if TYPE_CHECKING:
    import numpy as np

REFERENCE = "sft"
SHARE = 0.75  # of the gain that both methods reach: not where one of them has just turned
DRAWS = 4000
LEVEL = 0.05


@dataclass(frozen=True)
class Matched:
    """A method against the reference, at one domain score.

    Attributes:
        domain: The score at which they are compared.
        reference, general: Their general scores there, on average over the curves.
        low, high: Interval of the difference; those of all methods that are compared are right
            together in 95% (Bonferroni), and of a single one more often.
        p: Two-sided, adjusted likewise.
        curves: What was interpolated along.
        of_methods: Whether errors have the deviation between runs; else they are of checkpoints.
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
    """Every method against sft, those that keep most first; empty where nothing can be matched."""
    base = next((one for one in group.runs if is_base(one) and has_both_scores(one)), None)
    settings = seed_groups([one for one in group.runs if has_both_scores(one)])
    times = Counter((one.label, one.lr, one.share) for one in settings)
    by_method: dict[str, dict[Point, SeedGroup]] = {}
    for one in settings:
        if one.lr is not None and times[one.label, one.lr, one.share] == 1:
            by_method.setdefault(one.label, {})[one.lr, one.share] = one
    whole = [point for point in by_method.get(REFERENCE, {}) if point[1] == 1]
    if base is None or len(whole) < 2:
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
        _against_reference(method, points[method] & points[REFERENCE], scores, drawn)
        for method in points
        if method != REFERENCE
    ]
    known = [one for one in found if one is not None]
    compared = [one.told(len(known), drawn.of_methods) for one in known]
    return sorted(compared, key=lambda one: -one.difference)


def general_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """General score where a curve first has gained so much on the domain.

    Args:
        domain, general: [resamples, points]; the first point is the base model.

    Returns:
        [resamples]; where a resampled curve never gains so much, its value at the most it gains.
    """
    import numpy as np

    before, after, share, reached = _between(domain, gain)
    every = np.arange(len(domain))
    between = general[every, before] + share * (general[every, after] - general[every, before])
    return np.where(reached, between, general[every, domain.argmax(axis=1)])


def bend_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """By how much the curve of `general_at` may lie above or below its straight line there.

    A parabola through both neighbours that does not turn between them is off by no more.

    Returns:
        [resamples]; 0 where the curve never gains so much.
    """
    import numpy as np

    before, after, share, reached = _between(domain, gain)
    every = np.arange(len(domain))
    step = np.abs(general[every, after] - general[every, before])
    return np.where(reached, share * (1 - share) * step, 0.0)


def _between(
    domain: np.ndarray, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each curve the points before and after it first gains so much, how far on, whether."""
    import numpy as np

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
    """Scores of all settings, on other items and of other runs: [1 + DRAWS, settings].

    The first row is what was measured.
    """

    domain: np.ndarray
    general: np.ndarray
    of_methods: bool

    @classmethod
    def of(cls, scores: Scores) -> _Draws:
        import numpy as np

        generator = np.random.default_rng(0)
        trainings = [name.rpartition(" @")[0] for name in scores.place]
        place = np.unique(trainings, return_inverse=True)[1]
        drawn, known = [], []
        parts: tuple[Part, ...] = ("domain", "general")
        for part in parts:
            # As in `Scores.contrast`: one more item on which two settings disagree.
            items = scores.items[part] + np.diag(np.full(len(place), scores.unit[part] / 2))
            mean = scores.means[part]
            total = generator.multivariate_normal(mean, items, DRAWS, method="eigh")
            deviation = scores.deviations[part]
            if deviation is not None:
                # The deviation is an estimate too: errors of runs have the tails of Student's t.
                chance = generator.chisquare(deviation.df, (DRAWS, 1))
                error = np.sqrt(deviation.variance * deviation.df / chance)
                of_training = generator.normal(size=(DRAWS, place.max() + 1))[:, place]
                of_mean = error / np.sqrt(np.maximum(scores.runs, 1))
                total += of_mean * of_training * (scores.runs > 0)
            drawn.append(np.vstack([mean, total]))
            known.append(deviation)
        return cls(drawn[0], drawn[1], None not in known)

    def least_gain(self, curves: Sequence[Sequence[int]]) -> float:
        """On the domain, of the curve that gains least."""
        return min(
            float(self.domain[0, places].max() - self.domain[0, places[0]]) for places in curves
        )


@dataclass(frozen=True)
class _Compared:
    """A method against the reference, before it is known how many are compared.

    Attributes:
        differences: [DRAWS], along straight lines.
        bend: By how much it may be off, as curves may bend between runs.
    """

    method: str
    domain: float
    reference: float
    general: float
    differences: np.ndarray
    bend: float
    curves: str

    def told(self, methods: int, of_methods: bool) -> Matched:
        """With an error that pays for so many methods."""
        import numpy as np

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
    method: str, points: set[Point], scores: Scores, drawn: _Draws
) -> _Compared | None:
    import numpy as np

    rates = sorted(lr for lr, share in points if share == 1)
    if len(rates) < 2:
        return None
    along_rates = _places(method, [(lr, 1.0) for lr in rates], scores)
    gain = SHARE * drawn.least_gain(along_rates)
    if gain <= 0:
        return None
    curves = {f"{len(rates)} rates": along_rates}
    for lr in rates:
        path = sorted(point for point in points if point[0] == lr)
        places = _places(method, path, scores)
        if len(path) > 1 and drawn.least_gain(places) >= gain:
            curves[f"{len(path)} points of {rate_text(lr)}"] = places
    general, bends = [], []
    for one in (0, 1):
        along = [
            (drawn.domain[:, places[one]], drawn.general[:, places[one]])
            for places in curves.values()
        ]
        general.append(np.mean([general_at(*curve, gain) for curve in along], axis=0))
        bends.append(np.mean([bend_at(x[:1], y[:1], gain) for x, y in along]))
    return _Compared(
        method=method,
        domain=float(drawn.domain[0, scores.place["base"]]) + gain,
        reference=float(general[0][0]),
        general=float(general[1][0]),
        differences=(general[1] - general[0])[1:],
        bend=float(max(bends)),
        curves=", ".join(curves),
    )


def _places(method: str, points: Sequence[Point], scores: Scores) -> tuple[list[int], list[int]]:
    """Where the reference's and the method's curve stand in the scores, the base model first."""
    base = scores.place["base"]
    reference, own = (
        [base, *(scores.place[_name(one, point)] for point in points)]
        for one in (REFERENCE, method)
    )
    return reference, own


def _name(method: str, point: Point) -> str:
    return f"{method} {rate_text(point[0])} @{point[1]:g}"


def headline(found: Sequence[Matched]) -> str:
    """The first thing to say of a study with several rates; empty where nothing was matched."""
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
