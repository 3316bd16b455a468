"""The Pareto front of a study: runs that no other run beats on domain and general score at once.

Takes the scores as they are: within their errors, neighbours of the front may belong to it.
"""

from collections.abc import Sequence

from talr_cli.statistics.pairs import PARTS, Results, has_both_scores, measured_alike, point


def pareto_front(results: Sequence[Results]) -> list[Results]:
    """The runs of one model and dataset that none dominates, in the order of their domain score.

    The base model takes part. Only runs that were measured alike dominate each other; equal runs
    are on the front together.
    """
    scored = [one for one in results if has_both_scores(one)]
    front = [
        one
        for one in scored
        if not any(
            dominates(point(other), point(one))
            and all(measured_alike(one, other, part) for part in PARTS)
            for other in scored
        )
    ]
    return sorted(front, key=lambda one: (point(one)[0], -point(one)[1]))


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a (domain, general) score is at least as good as another on both, better on one."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other
