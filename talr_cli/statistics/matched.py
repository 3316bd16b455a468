"""Which method forgets least at an equal domain score: the fair question between methods.

At one learning rate a method that learns less forgets less, which says nothing of the method. So
each method is a curve from the base model through its learning rates, and through the points along
each training where there are any; general scores are compared where two curves first reach the same
gain on the domain, linearly between runs. Two methods are compared on the rates and points that
both have, so that neither is known more closely than the other; where they share fewer than two
rates, as an adapter and full fine-tuning do, on those of each. Errors are over items and, where the
deviation between runs is known, over runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talr_cli.printable import rate_text
from talr_cli.statistics.contrasts import holm
from talr_cli.statistics.groups import Group
from talr_cli.statistics.paired import with_interval
from talr_cli.statistics.pairs import has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, seed_groups
from talr_cli.statistics.settings import Scores, scores_of

if TYPE_CHECKING:
    import numpy as np

REFERENCE = "sft"
SHARE = 0.75  # of the gain that both methods reach: not where one of them has just turned
RESAMPLES = 4000
LEVEL = 0.05


@dataclass(frozen=True)
class Matched:
    """A method against the reference, at one domain score.

    Attributes:
        domain: The score at which they are compared.
        reference, general: Their general scores there, on average over the curves.
        low, high: 95% interval of the difference.
        p: Two-sided, adjusted for all methods that are compared (Holm).
        curves: What was interpolated along; of both, where they share fewer than two rates.
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
    adjusted = holm([one.p for one in known])
    compared = [replace(one, p=p) for one, p in zip(known, adjusted, strict=True)]
    return sorted(compared, key=lambda one: -one.difference)


def general_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """General score where a curve first has gained so much on the domain.

    Args:
        domain, general: [resamples, points]; the first point is the base model.

    Returns:
        [resamples]; where a resampled curve never gains so much, its value at the most it gains.
    """
    import numpy as np

    gains = domain - domain[:, :1]
    reached = gains >= gain
    every = np.arange(len(gains))
    after = np.maximum(reached.argmax(axis=1), 1)
    before = after - 1
    step = gains[every, after] - gains[every, before]
    share = (gain - gains[every, before]) / np.where(step > 0, step, 1.0)
    between = general[every, before] + share * (general[every, after] - general[every, before])
    return np.where(reached.any(axis=1), between, general[every, gains.argmax(axis=1)])


@dataclass(frozen=True)
class _Draws:
    """Scores of all settings, on other items and of other runs: [1 + resamples, settings].

    The first row is what was measured.
    """

    domain: np.ndarray
    general: np.ndarray
    of_methods: bool

    @classmethod
    def of(cls, scores: Scores) -> _Draws:
        import numpy as np

        generator = np.random.default_rng(0)
        tasks = [task for task in scores.tasks if task != "domain"]
        means = []
        known = [scores.deviations["domain"], scores.deviations["general"]]
        for parts, deviation in zip((["domain"], tasks), known, strict=True):
            total = np.zeros((RESAMPLES, len(scores.place)))
            for part in parts:
                items = scores.tasks[part]
                n = items.shape[1]
                drawn = generator.multinomial(n, np.full(n, 1 / n), RESAMPLES)
                total += drawn @ items.T / n / len(parts)
            if deviation is not None:
                # The deviation is an estimate too: errors of runs have the tails of Student's t.
                chance = generator.chisquare(deviation.df, (RESAMPLES, 1))
                error = np.sqrt(deviation.variance * deviation.df / chance)
                of_mean = error / np.sqrt(np.maximum(scores.runs, 1))
                total += of_mean * generator.normal(size=total.shape) * (scores.runs > 0)
            measured = sum(scores.tasks[part].mean(axis=1) for part in parts) / len(parts)
            means.append(np.vstack([measured, total]))
        return cls(means[0], means[1], None not in known)

    def most_gain(self, places: Sequence[int]) -> float:
        """On the domain, of a curve, as it was measured."""
        return float(self.domain[0, places].max() - self.domain[0, places[0]])

    def at(self, gain: float, curves: Mapping[str, Sequence[int]]) -> np.ndarray:
        """[1 + resamples]: the general score at a gain, on average over the curves."""
        import numpy as np

        values = [
            general_at(self.domain[:, places], self.general[:, places], gain)
            for places in curves.values()
        ]
        return np.mean(values, axis=0)


def _against_reference(
    method: str, own: set[Point], reference: set[Point], scores: Scores, drawn: _Draws
) -> Matched | None:
    import numpy as np

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
    curves = {
        one: {name: places for name, places in of.items() if name in reach[one]}
        for one, of in curves.items()
    }
    general, of_reference = drawn.at(gain, curves[method]), drawn.at(gain, curves[REFERENCE])
    differences = (general - of_reference)[1:]
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    told = ", ".join(curves[method])
    if not is_shared:
        told = f"{told}; of {REFERENCE} {', '.join(curves[REFERENCE])}"
    return Matched(
        method=method,
        domain=float(drawn.domain[0, scores.place["base"]]) + gain,
        reference=float(of_reference[0]),
        general=float(general[0]),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + rarer) / (1 + RESAMPLES)),
        curves=told,
        of_methods=drawn.of_methods,
    )


def _rates(points: Collection[Point]) -> list[float]:
    """Of the whole trainings."""
    return sorted(lr for lr, share in points if share == 1)


def _curves(method: str, points: Collection[Point], scores: Scores) -> dict[str, list[int]]:
    """{what it goes along: where it stands in the scores, the base model first}.

    A single training is no curve: there is nothing between it and the base model.
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
    """Where a curve stands in the scores, the base model first."""
    return [scores.place["base"], *(scores.place[_name(method, point)] for point in points)]


def _name(method: str, point: Point) -> str:
    return f"{method} {point[0]!r} @{point[1]!r}"


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
    less = [one.method for one in found if one.verdict == "forgets less"]
    if not less:
        return f"{told}; of no method is it told from noise that it forgets less"
    return f"{told}; forgets less: {', '.join(less)}"
