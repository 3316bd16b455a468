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


def _order(results: Results) -> tuple:
    run = results["run"]
    return (
        run["model"],
        run["dataset"],
        not is_base(results),
        run["method"],
        run["lr"] or 0.0,
        run["seed"] or 0,
        run["id"],
    )
