"""Runs of one model on one dataset: the only ones whose scores can be set side by side."""

from collections.abc import Sequence
from typing import Any

Results = dict[str, Any]


def group_by_pair(results: Sequence[Results]) -> dict[tuple[str, str], list[Results]]:
    """{(model, dataset): runs}, the base model first, then by method, lr and seed."""
    groups: dict[tuple[str, str], list[Results]] = {}
    for one in sorted(results, key=_order):
        groups.setdefault((one["run"]["model"], one["run"]["dataset"]), []).append(one)
    return groups


def is_base(results: Results) -> bool:
    return results["run"]["method"] == "base"


def averaged_from(results: Results) -> dict[str, Any] | None:
    """The `alpha` of an averaged model and the run it is made `of`; None for any other run."""
    return (results.get("weights") or {}).get("averaged")


def averaging_alpha(results: Results) -> float | None:
    """The share of the tuned weights in an averaged model; None for any other run."""
    averaged = averaged_from(results)
    return averaged["alpha"] if averaged else None


def method_label(results: Results) -> str:
    """The method's name, with the alpha of an averaged model: one training makes several."""
    alpha = averaging_alpha(results)
    method = results["run"]["method"]
    return method if alpha is None else f"{method} α={alpha:g}"


def has_both_scores(results: Results) -> bool:
    return all(score_of(results, part) is not None for part in ("domain", "general"))


def point(results: Results) -> tuple[float, float]:
    """Domain and general score of a run that has both."""
    return results["domain"]["score"], results["general"]["score"]


def score_of(results: Results, part: str) -> float | None:
    """The domain or general score; None where it was not measured or is not a number."""
    return results[part]["score"] if results[part] else None


def measured_alike(one: Results, other: Results, part: str) -> bool:
    """Whether both were scored by the same measure on the same items."""
    if not one[part] or not other[part]:
        return False
    # A quick look at the first items is no estimate of the same thing.
    if any(
        one[part].get(key, absent) != other[part].get(key, absent)
        for key, absent in _MEASURE.items()
    ):
        return False
    # Neither is a mean that lacks a task, or has one with other items.
    tasks, others = (scores[part].get("tasks", {}) for scores in (one, other))
    return tasks.keys() == others.keys() and all(
        tasks[name].get(key) == others[name].get(key)
        for name in tasks
        for key in ("metric", "n", "definition")
        # Earlier versions recorded no definition.
        if key in tasks[name] and key in others[name]
    )


def points_alike(one: Results, other: Results) -> bool:
    """Whether both scores of the one can be set beside those of the other."""
    return all(measured_alike(one, other, part) for part in ("domain", "general"))


# {key: what its absence means}
_MEASURE = {"scorer": None, "suite": None, "limit": None, "answer_by": None, "backend": "hf"}


def _order(results: Results) -> tuple:
    run = results["run"]
    return (
        run["model"],
        run["dataset"],
        not is_base(results),
        run["method"],
        averaging_alpha(results) or 0.0,
        run["lr"] or 0.0,
        run["seed"] or 0,
        run["id"],
    )
