"""What the runs of a study cost: device hours, speed and memory, method by method.

Models that come from one training, averages and points along it, count its cost once.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
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
    """One line for each method and device; None where no run was trained here."""
    lines = []
    for group in groups:
        like: dict[tuple[str, str], list[Results]] = {}
        for one in group.runs:
            if one.get("training"):
                key = (one["run"]["method"], _device(one["training"]))
                like.setdefault(key, []).append(one)
        for (method, device), members in like.items():
            lines.append([*pair_cells(group), *_line(method, device, members)])
    return Cells([*pair_columns(len(groups)), *_COLUMNS], lines) if lines else None


def _line(method: str, device: str, runs: Sequence[Results]) -> list[Cell]:
    longest = {training_of(one): one["training"] for one in sorted(runs, key=share_trained)}
    trainings = list(longest.values())
    hours = [training_hours(training) for training in trainings]
    known = [value for value in hours if value is not None]
    evaluation = [evaluation_hours(one) for one in runs]
    return [
        named(method),
        Cell(device, device) if device else Cell(),
        Cell(str(len(trainings)), len(trainings)),
        _number(statistics.fmean(known) if known else None, 3),
        _number(sum(known) if known else None, 3),
        _number(_mean(trainings, "tokens_per_second"), 0),
        _number(max(_values(trainings, "peak_memory_gib"), default=None), 2),
        _number(sum(evaluation), 3),
    ]


def _device(training: dict[str, Any]) -> str:
    """The number of devices and their name; empty where it was not recorded."""
    name, processes = training.get("device", ""), training.get("processes", 1)
    return f"{processes} × {name}" if processes > 1 else name


def _mean(trainings: Sequence[dict[str, Any]], key: str) -> float | None:
    values = _values(trainings, key)
    return statistics.fmean(values) if values else None


def _values(trainings: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [one[key] for one in trainings if one.get(key) is not None]


def _number(value: float | None, digits: int) -> Cell:
    return Cell() if value is None else Cell(f"{value:.{digits}f}", value)
