"""The Pareto front of a study: runs that no other run beats on domain and general score at once.

Takes the scores as they are: within their errors, neighbours of the front may belong to it.
"""

from collections.abc import Sequence

from talr_cli.statistics.pairs import Results, has_both_scores, point, points_alike


def pareto_front(results: Sequence[Results]) -> list[Results]:
    """Those of one model and dataset that none dominates, in order of their domain score.

    The base model takes part. One run dominates another that was measured alike if it is at least
    as good on both scores and better on one; equal runs are on the front together.
    """
    scored = [one for one in results if has_both_scores(one)]
    front = [one for one in scored if not any(_dominates(other, one) for other in scored)]
    return sorted(front, key=lambda one: (point(one)[0], -point(one)[1]))


def _dominates(one: Results, other: Results) -> bool:
    if not points_alike(one, other):
        return False
    (x, y), (other_x, other_y) = point(one), point(other)
    return x >= other_x and y >= other_y and (x, y) != (other_x, other_y)
