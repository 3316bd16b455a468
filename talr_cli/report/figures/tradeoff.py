"""The picture of a study: what each run gained on the domain against what it kept elsewhere.

One picture for each group of comparable runs, with the Pareto front. Knows results only; does not
decide which run is best.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from talr_cli.printable import rate_text
from talr_cli.report.figures.looks import (
    EDGE,
    Look,
    broken,
    faint_grid,
    method_looks,
    new_figure,
    save,
)
from talr_cli.report.pareto import pareto_front
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import (
    Results,
    has_both_scores,
    is_base,
    method_label,
    paths,
    point,
    share_trained,
)

LABELLED_RUNS = 12  # with more, labels hide the points that they name
FRONT = "Pareto front"
SMALLEST, LARGEST = 5.5, 11.5  # points; the marker of the lowest and of the highest lr
log = logging.getLogger(__name__)


def plot_tradeoff(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw domain (x) against general (y) as .png and .svg in `folder`; the files written."""
    files = []
    for group in groups:
        if not any(has_both_scores(one) for one in group.runs):
            log.warning("no plot of %s: no run has both scores", group.title)
            continue
        files += save(draw_tradeoff(group), folder, f"tradeoff-{group.file_name}")
    return files


def draw_tradeoff(group: Group) -> Figure:
    """The runs of a group; those without both scores only keep their look."""
    results = [one for one in group.runs if has_both_scores(one)]
    tuned = [one for one in results if not is_base(one)]
    figure = new_figure(8.5, 5.5)
    axes = figure.add_subplot()
    general, domain = results[0]["general"], results[0]["domain"]
    axes.set_title(broken(f"{group.title}, general suite: {general['suite']}", 75))
    axes.set_xlabel(broken(f"domain {domain['metric']}", 75))
    axes.set_ylabel(broken(f"general score ({general['formula']})", 75))
    faint_grid(axes)

    sizes = _sizes(tuned)
    looks = method_looks(group.runs)
    _draw_front(axes, results)
    _draw_paths(axes, results, looks)
    ends = [one for one in tuned if share_trained(one) == 1]
    crowded = len(ends) > LABELLED_RUNS
    for one in results:
        if share_trained(one) < 1:
            continue  # a point of a path
        if is_base(one):
            axes.axvline(one["domain"]["score"], color="0.4", linestyle=":", zorder=1)
            axes.axhline(one["general"]["score"], color="0.4", linestyle=":", zorder=1)
            look: dict[str, Any] = {"marker": "*", "color": "black", "markersize": 16}
        else:
            method = looks[method_label(one)]
            size = sizes[one["run"]["lr"]]
            look = {"marker": method.marker, "color": method.color, "markersize": size}
        axes.errorbar(
            *point(one),
            xerr=one["domain"]["stderr"],
            yerr=one["general"]["stderr"],
            ecolor=(0.3, 0.3, 0.3, 0.15 if crowded else 0.6),
            elinewidth=0.8,
            markeredgecolor=EDGE,
            markeredgewidth=0.8,
            zorder=4 if is_base(one) else 3,
            **look,
        )
    axes.margins(0.08)
    shown = {label: looks[label] for label in sorted({method_label(one) for one in tuned})}
    handles = [
        *_legend_handles(shown, sizes, with_base=len(tuned) < len(results)),
        *[line for line in axes.get_lines() if line.get_label() == FRONT][:1],
    ]
    axes.legend(
        handles=handles,
        title="error bars: 1 s.e.",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        labelspacing=0.7,
        frameon=False,
    )
    if not crowded:
        figure.canvas.draw()  # labels are placed in pixels, which are known only now
        _label_points(axes, ends, blocked=[point(one) for one in results])
    return figure


def _draw_paths(axes: Axes, results: Sequence[Results], looks: dict[str, Look]) -> None:
    """Each training from the base model on, through its points: a dot each, the end is a run."""
    start = [one for one in results if is_base(one)]
    for path in paths(results):
        x, y = zip(*(point(one) for one in [*start, *path]), strict=True)
        look = looks[method_label(path[0])]
        axes.plot(x, y, color=look.color, linewidth=1.1, alpha=0.8, zorder=2)
        early = slice(len(start), len(start) + sum(share_trained(one) < 1 for one in path))
        axes.plot(
            x[early],
            y[early],
            color=look.color,
            linestyle="",
            marker=look.marker,
            markersize=4,
            markeredgecolor=EDGE,
            markeredgewidth=0.5,
            zorder=2.5,
        )


def _draw_front(axes: Axes, results: Sequence[Results]) -> None:
    """The edge of what the runs reach."""
    front = pareto_front(results)
    if len(front) > 1:
        x, y = zip(*(point(one) for one in front), strict=True)
        look: dict[str, Any] = {"color": "0.7", "linewidth": 3}  # unlike an error bar
        axes.plot(x, y, drawstyle="steps-pre", label=FRONT, zorder=1.5, **look)


def _sizes(tuned: Sequence[Results]) -> dict[float | None, float]:
    """{lr: marker size}, even in the logarithm of lr; no lr is drawn like the lowest."""
    known = sorted({one["run"]["lr"] for one in tuned} - {None})
    sizes: dict[float | None, float] = {None: SMALLEST}
    for lr in known:
        share = math.log(lr / known[0]) / math.log(known[-1] / known[0]) if lr > known[0] else 0.0
        sizes[lr] = SMALLEST + (LARGEST - SMALLEST) * share
    return sizes


def _legend_handles(
    looks: dict[str, Look], sizes: dict[float | None, float], with_base: bool
) -> list[Line2D]:
    edge: dict[str, Any] = {"linestyle": "", "markeredgecolor": EDGE, "markeredgewidth": 0.8}
    handles = []
    if with_base:
        handles.append(
            Line2D([], [], marker="*", color="black", markersize=13, label="base model", **edge)
        )
    for label, look in looks.items():
        handles.append(
            Line2D(
                [],
                [],
                marker=look.marker,
                color=look.color,
                markersize=8,
                label=broken(label),
                **edge,
            )
        )
    lrs = sorted(lr for lr in sizes if lr is not None)
    if len(lrs) > 5:
        lrs = [lrs[0], lrs[len(lrs) // 2], lrs[-1]]
    for lr in lrs:
        handles.append(
            Line2D(
                [],
                [],
                marker="o",
                color="white",
                markersize=sizes[lr],
                label=f"lr {rate_text(lr)}",
                **edge,
            )
        )
    return handles


def _label_points(
    axes: Axes, tuned: Sequence[Results], blocked: Sequence[tuple[float, float]]
) -> None:
    """Name each run beside its point, at the nearest place that covers no point and no label."""
    several_seeds = len({one["run"]["seed"] for one in tuned}) > 1
    radius = LARGEST
    taken = [
        Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)
        for x, y in axes.transData.transform(blocked)
    ]
    inside = axes.get_window_extent()
    # Diagonals first: the error bars lie on the others.
    directions = [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)]
    for one in tuned:
        run = one["run"]
        lr = "" if run["lr"] is None else f" {rate_text(run['lr'])}"
        seed = f" s{run['seed']}" if several_seeds else ""
        label = axes.annotate(
            f"{broken(method_label(one))}{lr}{seed}",
            point(one),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7.5,
            zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkB": 4},
        )
        label.set_in_layout(False)
        for distance, (right, up) in itertools.product((6, 12, 20, 32, 46, 62), directions):
            label.set_position((right * distance, up * distance))
            label.set(
                ha={1: "left", 0: "center", -1: "right"}[right],
                va={1: "bottom", 0: "center", -1: "top"}[up],
            )
            box = _text_box(label)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 < box.x0 and box.x1 < inside.x1:
                break
        taken.append(_text_box(label))


def _text_box(label: Any) -> Bbox:
    label.update_positions(label.figure.canvas.get_renderer())
    # The box of an annotation includes its line; only the text must stay clear.
    return Text.get_window_extent(label)
