"""What the runs of a study cost by method: device hours, speed and memory.

The cost of a training counts once, also if averages and points along it are runs too.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from talr_cli.report.tables.cells import Cell, Cells, Column, fixed, named, pair_cells, pair_columns
from talr_cli.statistics.durations import evaluation_hours, training_hours
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, share_trained, training_of

_COLUMNS = (
    Column("method", "method"),
    Column("device", "device"),
    Column("trainings", "trainings", number=True),
    Column("hours_per_training", "hours each", number=True),
    Column("hours", "hours in all", number=True),
    Column("tokens_per_second", "tokens/s", number=True),
    Column("peak_memory_gib", "peak GiB", number=True),
    Column("evaluation_hours", "evaluation hours", number=True),
)


def cost_cells(groups: Sequence[Group]) -> Cells | None:
    """A row for each method and device; None if no run was trained by talr."""
    lines = []
    for group in groups:
        by_method: dict[tuple[str, str], list[Results]] = {}
        for one in group.runs:
            if one.get("training"):
                key = (one["run"]["method"], _device(one["training"]))
                by_method.setdefault(key, []).append(one)
        for (method, device), members in by_method.items():
            lines.append([*pair_cells(group), *_line(method, device, members)])
    return Cells([*pair_columns(len(groups)), *_COLUMNS], lines) if lines else None


def _line(method: str, device: str, runs: Sequence[Results]) -> list[Cell]:
    by_training = {training_of(one): one["training"] for one in sorted(runs, key=share_trained)}
    trainings = list(by_training.values())
    hours = [one for one in map(training_hours, trainings) if one is not None]
    speeds = _values(trainings, "tokens_per_second")
    return [
        named(method),
        named(device or None),
        named(len(trainings)),
        fixed(statistics.fmean(hours) if hours else None),
        fixed(sum(hours) if hours else None),
        fixed(statistics.fmean(speeds) if speeds else None, digits=0),
        fixed(max(_values(trainings, "peak_memory_gib"), default=None), digits=2),
        fixed(sum(map(evaluation_hours, runs))),
    ]


def _device(training: dict[str, Any]) -> str:
    """The number of devices and their name; empty if it was not recorded."""
    name, processes = training.get("device", ""), training.get("processes", 1)
    return f"{processes} × {name}" if processes > 1 else name


def _values(trainings: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [one[key] for one in trainings if one.get(key) is not None]
