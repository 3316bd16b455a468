"""What a command says of a run when it is done."""

from typing import Any

from talr_cli.printable import printable
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.groups import comparable


def show(directory: RunDirectory) -> None:
    """Print what the run scored, by category too where there are some, and where it lies."""
    results = directory.read_results()
    if results is not None:
        # rich and matplotlib take their time
        from talr_cli.report.tables.categories import category_cells
        from talr_cli.report.tables.table import print_cells, print_table

        print_table(comparable([results]))
        for line in task_lines(results["general"] or {}):
            print(printable(line))
        if (categories := category_cells(results)) is not None:
            print_cells(categories)
    print(f"run directory: {directory.path}")


def task_lines(general: dict[str, Any]) -> list[str]:
    """A line for each task of the general score: what counts, then its other metrics."""
    lines = []
    for name, task in general.get("tasks", {}).items():
        error = "" if task["stderr"] is None else f" ± {task['stderr']:.3f}"
        others = [
            _named(metric, value)
            for metric, value in task["all"].items()
            if "_stderr" not in metric and metric != task["metric"]
        ]
        beside = f" (beside it: {', '.join(others)})" if others else ""
        lines.append(
            f"{name}: {_named(task['metric'], task['score'])}{error}, n = {task['n']}{beside}"
        )
    return lines + [f"left out: {reason}" for reason in general.get("missing", {}).values()]


def _named(metric: str, value: float | None) -> str:
    number = "–" if value is None else f"{value:.3f}"
    return f"{metric.removesuffix(',none')} {number}"
