"""Training curves: loss, token weights and easy tokens, with a panel for each method.

Reads metrics.jsonl of the run directories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY
from talr_cli.printable import rate_text
from talr_cli.report.figures import looks
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import RunsByPath
from talr_cli.statistics.seeds import SeedGroup, final_settings

BINS = 60  # the largest number of points of a line, to which steps are averaged
FEW_POINTS = 12  # up to this number, points of a line are marked
PANEL = 1.9  # height in inches


@dataclass(frozen=True)
class Statistic:
    """A quantity from metrics.jsonl: offset + factor * metric."""

    metric: str
    file: str
    label: str
    logarithmic: bool = False
    offset: float = 0.0
    factor: float = 1.0


STATISTICS = (
    Statistic("loss", "loss", "training loss (nats per token)", logarithmic=True),
    Statistic("validation_loss", "validation-loss", "validation loss (nats per token)"),
    Statistic("weight_mean", "token-weights", "mean weight of a token"),
    Statistic(
        "hard_token_share",
        "easy-tokens",
        f"share of tokens with p ≥ {HARD_TOKEN_PROBABILITY}",
        offset=1.0,
        factor=-1.0,
    ),
    Statistic("tau", "tau", "tau (nats per token)"),
)


@dataclass(frozen=True)
class Line:
    """A statistic against the steps of one setting: steps [points], values [points]."""

    label: str
    lr: float | None
    steps: np.ndarray
    values: np.ndarray


def draw_curves(group: Group, runs: RunsByPath) -> dict[str, Figure]:
    """{`file` of a statistic: its figure} of each statistic that the group's runs recorded."""
    metrics = {id(results): _read(path) for path, results in group.by_path(runs).items()}
    settings = final_settings(group.runs)
    lines = {statistic: _lines(settings, metrics, statistic) for statistic in STATISTICS}
    return {one.file: _draw(own, one, group.title) for one, own in lines.items() if own}


def binned(
    steps: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean steps and weighted means of the values in at most BINS bins of equal width.

    Args:
        steps, values, weights: [N].
    """
    if len(np.unique(steps)) <= BINS:
        bins = np.unique(steps, return_inverse=True)[1]
    else:
        width = (steps.max() - steps.min() + 1) / BINS
        bins = np.unique(((steps - steps.min()) / width).astype(int), return_inverse=True)[1]
    counts = np.bincount(bins)
    totals = np.bincount(bins, weights)
    return np.bincount(bins, steps) / counts, np.bincount(bins, values * weights) / totals


def _read(path: Path) -> dict[str, np.ndarray]:
    """{metric: steps, values and numbers of tokens of a run, as an array [3, N]}."""
    rows = RunDirectory(path).read_metrics()
    found = {}
    for statistic in STATISTICS:
        points = [
            (row["step"], row[statistic.metric], row.get("target_tokens") or 1)
            for row in rows
            if row.get(statistic.metric) is not None
        ]
        if points:
            found[statistic.metric] = np.array(points, float).T
    return found


def _lines(
    groups: Sequence[SeedGroup], metrics: Mapping[int, dict[str, np.ndarray]], statistic: Statistic
) -> list[Line]:
    """A line for each setting that recorded the statistic, with all seeds binned together.

    For token weights, methods that give every token the weight 1 are left out.
    """
    lines = []
    for group in groups:
        recorded = [metrics[id(one)] for one in group.runs]
        parts = [of_run[statistic.metric] for of_run in recorded if statistic.metric in of_run]
        if parts:
            steps, values = binned(*np.concatenate(parts, axis=1))
            values = statistic.offset + statistic.factor * values
            lines.append(Line(group.label, group.lr, steps, values))
    if statistic.metric == "weight_mean":
        weighing = {line.label for line in lines if (line.values != 1).any()}
        return [line for line in lines if line.label in weighing]
    return lines


def _draw(lines: Sequence[Line], statistic: Statistic, pair: str) -> Figure:
    labels = looks.ordered({line.label for line in lines})
    rates = sorted({line.lr for line in lines if line.lr is not None})
    styles = {lr: looks.LINES[place % len(looks.LINES)] for place, lr in enumerate(rates)}
    rows, columns = looks.panel_grid(len(labels))
    figure = looks.new_figure(6.4, PANEL * max(rows, 1.3) + 1.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, label in zip(panels, labels, strict=False):
        for line in lines:
            if line.label == label:
                color = looks.look_of(label).color
                if line.lr is not None:
                    color = looks.shades(color, len(rates))[rates.index(line.lr)]
                _draw_line(axes, line, color, styles.get(line.lr or 0.0, "-"))
        axes.set_title(looks.wrapped(label, 22), fontsize=9)
        looks.faint_grid(axes)
        axes.tick_params(labelsize=8)
    for axes in panels[len(labels) :]:
        axes.remove()
    for axes in panels[max(0, len(labels) - columns) : len(labels)]:
        axes.tick_params(labelbottom=True)  # also if there is no panel below
        axes.set_xlabel("optimizer step", fontsize=8)
    values = np.concatenate([line.values for line in lines])
    if statistic.logarithmic and values.min() > 0 and values.max() > 5 * values.min():
        _make_logarithmic(panels[0])
    figure.supylabel(statistic.label, fontsize=9)
    figure.suptitle(looks.wrapped(pair, 20 * columns + 20), fontsize=10)
    handles = [
        Line2D([], [], color=grey, linestyle=styles[lr], label=f"lr {rate_text(lr)}")
        for lr, grey in zip(rates, looks.shades((0.4, 0.4, 0.4), len(rates)), strict=True)
    ]
    looks.legend_below(figure, handles, columns=4, size=8, handlelength=3.5)
    return figure


def _make_logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, also for the panels that share it, with ticks such as 0.05."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_line(axes: Axes, line: Line, color: Any, style: Any) -> None:
    marker = "o" if len(line.steps) <= FEW_POINTS else ""
    axes.plot(
        line.steps,
        line.values,
        color=color,
        linestyle=style,
        linewidth=1.3,
        marker=marker,
        markersize=3.5,
    )
