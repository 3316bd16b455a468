"""What `talr train` and `talr eval` print about finished runs."""

from collections.abc import Callable, Sequence
from typing import Any

from talr_cli.printable import printable
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_siblings
from talr_cli.statistics.groups import Group, comparable
from talr_cli.statistics.pairs import Results, is_base


def show(directories: Sequence[RunDirectory], score_base: Callable[[], str] | None = None) -> None:
    """Print the scores and directories of runs, and for the last run the scores of every task.

    The base model is printed too if it was scored, as changes are relative to it.

    Args:
        score_base: Returns the command that scores the base model; called if it was not scored.
    """
    found = [results for one in directories if (results := one.read_results()) is not None]
    if found:
        # Imported here, as rich and matplotlib are slow to import.
        from talr_cli.report.tables.categories import category_cells
        from talr_cli.report.tables.screen import print_cells
        from talr_cli.report.tables.table import results_cells, study_rows

        groups = _with_their_base(directories[-1], found)
        print_cells(results_cells(study_rows(groups)))
        if score_base is not None and any(group.base is None for group in groups):
            print(f"for the missing changes (–), score the base model: {printable(score_base())}")
        for line in task_lines(found[-1]["general"] or {}):
            print(printable(line))
        if (categories := category_cells(found[-1])) is not None:
            print_cells(categories)
    for one in directories:
        print(f"run directory: {one.path}")


def _with_their_base(directory: RunDirectory, found: Sequence[Results]) -> list[Group]:
    """The groups of these results, with the base models of the same study."""
    own = {one["run"]["id"] for one in found}
    bases = [
        one
        for one in load_siblings(directory.path).values()
        if is_base(one) and one["run"]["id"] not in own
    ]
    groups = comparable([*bases, *found])
    return [group for group in groups if any(one["run"]["id"] in own for one in group.runs)]


def task_lines(general: dict[str, Any]) -> list[str]:
    """A line for each task of the general score: its chosen metric, then the others."""
    lines = []
    for name, task in general.get("tasks", {}).items():
        error = "" if task["stderr"] is None else f" ± {task['stderr']:.3f}"
        others = [
            _named(metric, value)
            for metric, value in task["all"].items()
            if "_stderr" not in metric and metric != task["metric"]
        ]
        more = f" (also: {', '.join(others)})" if others else ""
        lines.append(
            f"{name}: {_named(task['metric'], task['score'])}{error}, n = {task['n']}{more}"
        )
    return lines + [f"left out: {reason}" for reason in general.get("missing", {}).values()]


def _named(metric: str, value: float | None) -> str:
    number = "–" if value is None else f"{value:.3f}"
    return f"{metric.removesuffix(',none')} {number}"
