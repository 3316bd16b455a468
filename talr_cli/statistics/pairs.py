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
    """The score of a part as in `section_of`; None where it is not measured or not a number."""
    section = section_of(results, part)
    return section["score"] if section else None


def measured_alike(one: Results, other: Results, part: str) -> bool:
    """Whether both were scored by the same measure on the same items."""
    return unlike(one, other, part) is None


def unlike(one: Results, other: Results, part: str) -> str | None:
    """Why the scores of a part, as in `section_of`, cannot be compared; None where they can."""
    first, second = section_of(one, part), section_of(other, part)
    if not first or not second:
        return f"{part} was not scored"
    datasets = one["run"]["dataset"], other["run"]["dataset"]
    if part == "domain" and datasets[0] != datasets[1]:
        return f"domain is {datasets[0]} and {datasets[1]}"
    # A quick look at the first items is no estimate of the same thing.
    for key in _MEASURE:
        if first.get(key) != second.get(key):
            return f"{part} was scored by {key}={first.get(key)} and {key}={second.get(key)}"
    # Results of an earlier version do not say what was asked.
    hashes = {section["items_hash"] for section in (first, second) if "items_hash" in section}
    if len(hashes) > 1:
        return f"{part} was scored on other items"
    tasks, other_tasks = first.get("tasks", {}), second.get("tasks", {})
    if tasks and other_tasks and tasks.keys() != other_tasks.keys():
        return f"{part} is of the tasks {', '.join(tasks)} and of {', '.join(other_tasks)}"
    for task in tasks if other_tasks else ():
        reason = unlike(one, other, f"{part}/{task}")
        if reason is not None:
            return reason
    return None


def section_of(results: Results, part: str) -> dict[str, Any] | None:
    """What results.json says of `domain`, of `general` or of `general/TASK`."""
    section, _, task = part.partition("/")
    if not task or not results[section]:
        return results[section]
    return results[section].get("tasks", {}).get(task)


def points_alike(one: Results, other: Results) -> bool:
    """Whether both scores of the one can be set beside those of the other."""
    return all(measured_alike(one, other, part) for part in ("domain", "general"))


_MEASURE = ("scorer", "suite", "limit", "answer_by", "backend", "metric", "version", "definition")


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
