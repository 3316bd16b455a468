"""Which method forgets least at an equal domain score.

At one learning rate, a method that learns less also forgets less, so that comparison says nothing
about the method. Here a method is a set of curves of the general score against the domain score:
one from the base model through its learning rates, and one along each training that has points. Two
methods' general scores are compared where their curves first reach the same gain on the domain.
Curves go through the rates and points that both methods have, so that neither is known more
closely. If they share fewer than two rates, as an adapter and full fine-tuning often do, each has
its own.

Scores are resampled with their errors over items and, if the variance between runs is known, over
runs; all points of a training deviate together. Between two points a curve is interpolated
linearly, which favours a method whose points lie closer. So intervals are widened by the largest
difference between the line and a monotone parabola through both points: the larger of the two
curves' values and not their sum, as both bend in the same direction. This comparison is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.paired import LEVEL, with_interval
from talr_cli.statistics.pairs import PARTS, has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, seed_groups, unambiguous_settings
from talr_cli.statistics.settings import Scores, scores_of

REFERENCE = "sft"
GAIN_SHARE = 0.75  # of the gain that both methods reach: at all of it, a curve may turn back
DRAWS = 4000


@dataclass(frozen=True)
class Matched:
    """A method compared with the reference at one domain score.

    Attributes:
        domain: The domain score at which they are compared.
        reference, general: The general scores of the reference and of the method there, averaged
            over their curves.
        low, high: The simultaneous 95% interval of the difference over all compared methods
            (Bonferroni).
        p: Two-sided, adjusted in the same way.
        curves: What the curves go through, in words; for both methods if that differs.
        over_runs: Whether errors include the variance between runs; if not, they are those of these
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
    over_runs: bool

    @property
    def difference(self) -> float:
        return self.general - self.reference

    @property
    def text(self) -> str:
        return with_interval(self.difference, self.low, self.high)

    @property
    def verdict(self) -> str:
        if not self.over_runs:
            return "undecided: one seed"
        if self.p >= LEVEL:
            return "not distinguishable"
        return "forgets less" if self.difference > 0 else "forgets more"


Point = tuple[float, float]  # learning rate and share of the training


def matched(group: Group) -> list[Matched]:
    """Every method against sft, the one that keeps most first; empty if none can be compared."""
    base = next((one for one in group.runs if is_base(one) and has_both_scores(one)), None)
    settings = seed_groups([one for one in group.runs if has_both_scores(one)])
    by_method: dict[str, dict[Point, SeedGroup]] = {}
    for (label, lr, share), one in unambiguous_settings(settings).items():
        by_method.setdefault(label, {})[lr, share] = one
    if base is None or REFERENCE not in by_method:
        return []
    named = {
        _name(method, point): one
        for method, points in by_method.items()
        for point, one in points.items()
    }
    scores = scores_of(named, base, group.runs)
    if "base" not in scores.index:
        return []
    points = {
        method: {point for point in own if _name(method, point) in scores.index}
        for method, own in by_method.items()
    }
    drawn = _Draws.of(scores)
    met = {
        method: where
        for method, own in points.items()
        if method != REFERENCE and (where := _meet(method, own, points[REFERENCE], scores, drawn))
    }
    found = [_compare(method, where, drawn, len(met)) for method, where in met.items()]
    return sorted(found, key=lambda one: -one.difference)


def general_at(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """The general score where each curve first reaches a gain on the domain.

    Args:
        domain, general: Scores [resamples, points]; the first point is the base model.

    Returns:
        [resamples]; for a curve that never gains so much, the value where it gains most.
    """
    before, after, share, reached = _crossing(domain, gain)
    rows = np.arange(len(domain))
    between = general[rows, before] + share * (general[rows, after] - general[rows, before])
    return np.where(reached, between, general[rows, domain.argmax(axis=1)])


def bend_bound(domain: np.ndarray, general: np.ndarray, gain: float) -> np.ndarray:
    """The largest error of the linear interpolation in `general_at`, for a monotone curve.

    A monotone parabola through two points differs from the line between them by at most s (1 - s)
    times the difference of their general scores, where s is the position between them (0 to 1).

    Returns:
        [resamples]; 0 for a curve that never gains so much.
    """
    before, after, share, reached = _crossing(domain, gain)
    rows = np.arange(len(domain))
    step = np.abs(general[rows, after] - general[rows, before])
    return np.where(reached, share * (1 - share) * step, 0.0)


def _crossing(
    domain: np.ndarray, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where each curve first reaches a gain, as four arrays [resamples].

    The points before and after it, the position between them (0 to 1), and whether the curve
    reaches the gain at all.
    """
    gains = domain - domain[:, :1]
    reached = gains >= gain
    rows = np.arange(len(gains))
    after = np.maximum(reached.argmax(axis=1), 1)
    before = after - 1
    step = gains[rows, after] - gains[rows, before]
    share = (gain - gains[rows, before]) / np.where(step > 0, step, 1.0)
    return before, after, share, reached.any(axis=1)


@dataclass(frozen=True)
class _Draws:
    """Scores of all settings [1 + DRAWS, settings]: first as measured, then resampled.

    `over_runs` as in `Matched`.
    """

    domain: np.ndarray
    general: np.ndarray
    over_runs: bool

    @classmethod
    def of(cls, scores: Scores) -> _Draws:
        generator = np.random.default_rng(0)
        trainings = [name.rpartition(" @")[0] for name in scores.index]
        training = np.unique(trainings, return_inverse=True)[1]
        drawn, known = [], []
        for part in PARTS:
            # One more item on which two settings disagree, as in `Scores.contrast`.
            extra = np.diag(np.full(len(training), scores.extra_item[part] / 2))
            mean, covariance = scores.means[part], scores.item_covariance[part] + extra
            total = generator.multivariate_normal(mean, covariance, DRAWS, method="eigh")
            between = scores.run_variances[part]
            if between is not None:
                # The variance is itself an estimate, so that errors of runs are Student's t.
                chi_squared = generator.chisquare(between.df, (DRAWS, 1))
                deviation = np.sqrt(between.variance * between.df / chi_squared)
                of_training = generator.normal(size=(DRAWS, training.max() + 1))[:, training]
                of_mean = deviation / np.sqrt(np.maximum(scores.run_counts, 1))
                total += of_mean * of_training * (scores.run_counts > 0)
            drawn.append(np.vstack([mean, total]))
            known.append(between)
        return cls(drawn[0], drawn[1], None not in known)

    def largest_gain(self, curve: Sequence[int]) -> float:
        """The largest gain on the domain along a curve, as measured."""
        return float(self.domain[0, curve].max() - self.domain[0, curve[0]])

    def at(self, gain: float, curves: Collection[Sequence[int]]) -> tuple[np.ndarray, float]:
        """The general score at a gain [1 + DRAWS], averaged over curves, and its error bound."""
        scores = [(self.domain[:, curve], self.general[:, curve]) for curve in curves]
        values = np.mean([general_at(x, y, gain) for x, y in scores], axis=0)
        return values, float(np.mean([bend_bound(x[:1], y[:1], gain) for x, y in scores]))


@dataclass(frozen=True)
class _Meeting:
    """Where a method is compared with the reference: the gain on the domain, the domain score
    after it, and the curves that reach it.

    Attributes:
        curves: {method: {what a curve goes through, in words: indices in the scores}}.
        through: `curves` of `Matched`.
    """

    gain: float
    domain: float
    curves: dict[str, dict[str, list[int]]]
    through: str


def _meet(
    method: str, own: set[Point], reference: set[Point], scores: Scores, drawn: _Draws
) -> _Meeting | None:
    """None if the method or the reference has no curve, or gains nothing on the domain.

    Args:
        own, reference: The points of the method and of the reference.
    """
    both = own & reference
    is_shared = len(_rates(both)) > 1
    points = {REFERENCE: both, method: both} if is_shared else {REFERENCE: reference, method: own}
    curves = {one: _curves(one, each, scores) for one, each in points.items()}
    if not all(curves.values()):
        return None
    gain = GAIN_SHARE * min(
        drawn.largest_gain(_indices(one, [(lr, 1.0) for lr in _rates(each)], scores))
        for one, each in points.items()
    )
    if gain <= 0:
        return None
    reaching = {
        one: {name: curve for name, curve in each.items() if drawn.largest_gain(curve) >= gain}
        for one, each in curves.items()
    }
    if is_shared:
        names = reaching[REFERENCE].keys() & reaching[method].keys()
        reaching = {
            one: {name: curve for name, curve in each.items() if name in names}
            for one, each in reaching.items()
        }
    through = ", ".join(reaching[method])
    if not is_shared:
        through = f"{through}; of {REFERENCE} {', '.join(reaching[REFERENCE])}"
    domain = float(drawn.domain[0, scores.index["base"]]) + gain
    return _Meeting(gain, domain, reaching, through)


def _compare(method: str, where: _Meeting, drawn: _Draws, methods: int) -> Matched:
    """The comparison of a method, corrected for so many `methods`."""
    of_reference, bound_of_reference = drawn.at(where.gain, where.curves[REFERENCE].values())
    general, bound_of_method = drawn.at(where.gain, where.curves[method].values())
    bound = max(bound_of_method, bound_of_reference)
    differences = (general - of_reference)[1:]
    side = LEVEL / 2 / methods
    low, high = np.quantile(differences, [side, 1 - side])
    below = int((differences - bound <= 0).sum())
    above = int((differences + bound >= 0).sum())
    return Matched(
        method=method,
        domain=where.domain,
        reference=float(of_reference[0]),
        general=float(general[0]),
        low=float(low) - bound,
        high=float(high) + bound,
        p=min(1.0, methods * 2 * (1 + min(below, above)) / (1 + DRAWS)),
        curves=where.through,
        over_runs=drawn.over_runs,
    )


def _rates(points: Collection[Point]) -> list[float]:
    """The learning rates that have a point at the end of training."""
    return sorted(lr for lr, share in points if share == 1)


def _curves(method: str, points: Collection[Point], scores: Scores) -> dict[str, list[int]]:
    """{what a curve goes through, in words: indices in the scores, the base model's first}.

    A single training without points is not a curve: nothing is known between it and the base model.
    """
    rates = _rates(points)
    curves = {}
    if len(rates) > 1:
        curves[f"{len(rates)} rates"] = [(lr, 1.0) for lr in rates]
    for lr in rates:
        along = sorted(point for point in points if point[0] == lr)
        if len(along) > 1:
            curves[f"{len(along)} points of {rate_text(lr)}"] = along
    return {name: _indices(method, curve, scores) for name, curve in curves.items()}


def _indices(method: str, points: Sequence[Point], scores: Scores) -> list[int]:
    """The indices of the base model and of the points in the scores."""
    return [scores.index["base"], *(scores.index[_name(method, point)] for point in points)]


def _name(method: str, point: Point) -> str:
    return f"{method} {rate_text(point[0])} @{point[1]:g}"


def headline(found: Sequence[Matched]) -> str:
    """One line on the method that keeps most and on the verdicts; empty without any comparison."""
    if not found:
        return ""
    best = found[0]
    text = (
        f"at an equal domain score ({best.domain:.3f}) {best.method} keeps {best.text} "
        f"of the general score against {REFERENCE}"
    )
    if not best.over_runs:
        return f"{text}; undecided: one seed, of these checkpoints"
    verdicts = [
        f"{verdict}: {', '.join(names)}"
        for verdict in ("forgets less", "forgets more")
        if (names := [one.method for one in found if one.verdict == verdict])
    ]
    return f"{text}; {'; '.join(verdicts) or 'no difference is distinguishable from noise'}"
