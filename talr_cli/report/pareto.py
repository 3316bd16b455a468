"""The Pareto front of a study: the runs that no other run dominates in domain and general score.

Errors are ignored: a run close to the front may belong to it.
"""

from collections.abc import Sequence

from talr_cli.statistics.pairs import PARTS, Results, both_scores, has_both_scores, measured_alike


def pareto_front(results: Sequence[Results]) -> list[Results]:
    """The runs of one model and dataset that no other dominates, sorted by domain score.

    The base model is included. A run can only dominate a run that was measured in the same way.
    Runs with equal scores are on the front together.
    """
    scored = [one for one in results if has_both_scores(one)]
    front = [
        one
        for one in scored
        if not any(
            dominates(both_scores(other), both_scores(one))
            and all(measured_alike(one, other, part) for part in PARTS)
            for other in scored
        )
    ]
    return sorted(front, key=lambda one: both_scores(one)[0])


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a (domain, general) score is at least as good as another on both, better on one."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other
