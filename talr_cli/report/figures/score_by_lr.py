"""Score against learning rate, a line for each method: where learning and forgetting set in.

One picture for each pair of model and dataset. Knows results only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from talr_cli.report.figures.looks import (
    EDGE,
    Look,
    broken,
    faint_grid,
    method_looks,
    new_figure,
    save,
)
from talr_cli.runs.run_directory import pair_name
from talr_cli.statistics.pairs import Results, group_by_pair, is_base, measured_alike, score_of
from talr_cli.statistics.seeds import SeedGroup, seed_groups

SPREAD = 0.5  # of the gap between two lrs: methods stand side by side in it
MOST_TICKS = 8


def plot_score_by_lr(results: Sequence[Results], folder: Path) -> list[Path]:
    """Draw domain and general score over lr as .png and .svg in `folder`; the files written."""
    files = []
    for (model, dataset), runs in group_by_pair(results).items():
        groups = [group for group in seed_groups(runs) if group.lr is not None]
        parts = [
            part for part in ("domain", "general") if any(group.estimate(part) for group in groups)
        ]
        if parts:
            name = f"score-by-lr-{pair_name(model, dataset)}"
            files += save(_draw(runs, groups, parts), folder, name)
    return files


def _draw(runs: Sequence[Results], groups: Sequence[SeedGroup], parts: Sequence[str]) -> Figure:
    looks = method_looks(runs)
    looks = {label: looks[label] for label in sorted({group.label for group in groups})}
    lrs = sorted({group.lr for group in groups if group.lr is not None})
    figure = new_figure(5.2 * len(parts) + 2.3, 4.6)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        _draw_part(axes, part, runs, groups, looks, lrs)
    several = any(len(group.runs) > 1 for group in groups)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        title="error bars: 1 s.e.;\nseveral seeds: 1 s.d." if several else "error bars: 1 s.e.",
        loc="outside right upper",
        labelspacing=0.7,
        frameon=False,
        handlelength=3.5,
    )
    run = runs[0]["run"]
    figure.suptitle(broken(f"{run['model']} on {run['dataset']}", 90))
    return figure


def _draw_part(
    axes: Axes,
    part: str,
    runs: Sequence[Results],
    groups: Sequence[SeedGroup],
    looks: dict[str, Look],
    lrs: Sequence[float],
) -> None:
    base = next((one for one in runs if is_base(one)), None)
    level = score_of(base, part) if base else None
    if level is not None:
        axes.axhline(level, color="0.4", linestyle=":", zorder=1, label="base model")
    width = _gap(lrs) * SPREAD
    for place, (label, look) in enumerate(looks.items()):
        # Side by side, or error bars at the same lr hide each other.
        shift = 10 ** (width * ((place + 0.5) / len(looks) - 0.5))
        for line in _lines([group for group in groups if group.label == label], part):
            estimates = [group.estimate(part) for group in line]
            axes.errorbar(
                [group.lr * shift for group in line if group.lr is not None],
                [estimate.score for estimate in estimates if estimate],
                yerr=[(estimate.stderr or 0.0) for estimate in estimates if estimate],
                label=broken(label) if label not in _labels(axes) else None,
                color=look.color,
                linestyle=look.line,
                linewidth=1.2,
                marker=look.marker,
                markersize=6.5,
                markeredgecolor=EDGE,
                markeredgewidth=0.8,
                ecolor="0.45",
                elinewidth=0.8,
            )
    axes.set_xscale("log")
    margin = max(_gap(lrs) * 0.6, 0.1)
    axes.set_xlim(lrs[0] / 10**margin, lrs[-1] * 10**margin)
    axes.set_xticks(lrs[:: math.ceil(len(lrs) / MOST_TICKS)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: f"{lr:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8, rotation=30 if len(lrs) > 4 else 0)
    faint_grid(axes)
    axes.set_xlabel("learning rate")
    section = next(one[part] for one in runs if score_of(one, part) is not None)
    measure = section["metric"] if part == "domain" else f"score ({section['formula']})"
    axes.set_ylabel(f"{part} {measure}")


def _lines(groups: Sequence[SeedGroup], part: str) -> list[list[SeedGroup]]:
    """The groups of one method that have this score, by lr; a line for each way of measuring it."""
    lines: list[list[SeedGroup]] = []
    for group in sorted(groups, key=lambda group: group.lr or 0.0):
        if group.estimate(part) is None:
            continue
        one = _scored(group, part)
        home = next((li for li in lines if measured_alike(one, _scored(li[0], part), part)), None)
        if home is None:
            lines.append([group])
        else:
            home.append(group)
    return lines


def _scored(group: SeedGroup, part: str) -> Results:
    return next(one for one in group.runs if score_of(one, part) is not None)


def _gap(lrs: Sequence[float]) -> float:
    """The smallest distance between two learning rates, in decades."""
    gaps = [math.log10(b / a) for a, b in itertools.pairwise(lrs)]
    return min(gaps, default=1.0)


def _labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]
