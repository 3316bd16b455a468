"""Domain score against general score, with a mark for each setting.

One figure for each group of comparable runs. Seeds are averaged. Lines join the rates of a method
and the points along each training.
"""

import itertools
import logging
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from talr_cli.printable import rate_text
from talr_cli.report.figures import looks
from talr_cli.report.pareto import dominates
from talr_cli.statistics.estimates import Estimate, estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import PARTS, Results, both_scores, has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, curves, seed_groups

LABELLED = 12  # with more settings, labels would hide the points that they name
FEW = 24  # with more settings, single seeds are not drawn
FRONT = "Pareto front"
SMALLEST, LARGEST = 5.5, 11.5  # marker sizes in points for the lowest and the highest lr
log = logging.getLogger(__name__)

Point = tuple[float, float]  # domain and general score


def draw_tradeoff(group: Group) -> Figure | None:
    """Domain (x) against general score (y); None if no run has both scores."""
    results = [one for one in group.runs if has_both_scores(one)]
    if not results:
        log.warning("no plot of %s: no run has both scores", group.title)
        return None
    base = next((one for one in results if is_base(one)), None)
    settings = seed_groups(results)
    figure = looks.new_figure(6.4, 6.2)
    axes = figure.add_subplot()
    general, domain = results[0]["general"], results[0]["domain"]
    title = looks.wrapped(f"{group.title}, general suite: {general['suite']}", 65)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(looks.wrapped(f"domain {domain['metric']}", 65))
    axes.set_ylabel(looks.wrapped(f"general score ({general['formula']})", 65))
    looks.faint_grid(axes)

    ends = [one for one in settings if one.share == 1]
    sizes = _sizes(ends)
    crowded = len(ends) > LABELLED
    places = [*([both_scores(base)] if base else []), *map(_mean, settings)]
    _draw_front(axes, places)
    _draw_paths(axes, base, settings)
    _draw_rates(axes, ends, seeds=len(ends) <= FEW)
    if base is not None:
        axes.axvline(base["domain"]["score"], color="0.4", linestyle=":", zorder=1)
        axes.axhline(base["general"]["score"], color="0.4", linestyle=":", zorder=1)
        star: dict[str, Any] = {"marker": "*", "color": "black", "markersize": 16, "zorder": 4}
        _draw_point(
            axes, both_scores(base), [estimate_of(base[part]) for part in PARTS], crowded, star
        )
    for one in ends:
        own = looks.look_of(one.label)
        look = {"marker": own.marker, "color": own.color, "markersize": sizes[one.lr], "zorder": 3}
        _draw_point(axes, _mean(one), [one.estimate(part) for part in PARTS], crowded, look)
    axes.margins(0.08)
    handles = [
        *_legend_handles(looks.method_looks(results), sizes, with_base=base is not None),
        *[line for line in axes.get_lines() if line.get_label() == FRONT][:1],
    ]
    looks.legend_below(
        figure,
        handles,
        columns=4,
        size=9,
        title=looks.error_bar_note(any(len(one.runs) > 1 for one in settings)),
        columnspacing=1.2,
        handletextpad=0.4,
    )
    if not crowded:
        figure.canvas.draw()  # fixes the layout: labels are placed in pixels
        _label_points(axes, ends, blocked=places)
    return figure


def _mean(setting: SeedGroup) -> Point:
    """The scores of a setting, averaged over seeds; its runs have both scores."""
    domain, general = zip(*map(both_scores, setting.runs), strict=True)
    return statistics.fmean(domain), statistics.fmean(general)


def _draw_point(
    axes: Axes,
    place: Point,
    estimates: Sequence[Estimate | None],
    crowded: bool,
    look: dict[str, Any],
) -> None:
    xerr, yerr = (None if one is None else one.stderr for one in estimates)
    axes.errorbar(
        *place,
        xerr=xerr,
        yerr=yerr,
        ecolor=(0.3, 0.3, 0.3, 0.15 if crowded else 0.5),
        elinewidth=0.8,
        **(looks.OUTLINED | look),
    )


def _draw_rates(axes: Axes, ends: Iterable[SeedGroup], seeds: bool) -> None:
    """Lines through the learning rates of each curve, and a dot for each seed if `seeds`."""
    for settings in curves([one for one in ends if one.lr is not None]):
        look = looks.look_of(settings[0].label)
        x, y = zip(*map(_mean, sorted(settings, key=lambda one: one.lr or 0.0)), strict=True)
        if len(x) > 1:
            axes.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.6, zorder=2.2)
        dots = [both_scores(run) for one in settings if len(one.runs) > 1 for run in one.runs]
        if dots and seeds:
            x, y = zip(*dots, strict=True)
            axes.scatter(x, y, s=7, color=look.color, alpha=0.45, linewidths=0, zorder=2.4)


def _draw_paths(axes: Axes, base: Results | None, settings: Sequence[SeedGroup]) -> None:
    """A line along each training from the base model, with a small mark for each point."""
    by_training: dict[tuple[str, float | None, str | None], list[SeedGroup]] = {}
    for one in settings:
        by_training.setdefault((one.label, one.lr, one.setting), []).append(one)
    start = [both_scores(base)] if base is not None else []
    for (label, *_), path in by_training.items():
        if len({one.share for one in path}) < 2:
            continue
        look = looks.look_of(label)
        path = sorted(path, key=lambda one: one.share)
        x, y = zip(*start, *map(_mean, path), strict=True)
        axes.plot(x, y, color=look.color, linestyle=":", linewidth=1, alpha=0.8, zorder=2)
        early = [_mean(one) for one in path if one.share < 1]
        x, y = zip(*early, strict=True)
        axes.plot(
            x,
            y,
            color=look.color,
            linestyle="",
            marker=look.marker,
            markersize=4,
            markeredgecolor=looks.EDGE,
            markeredgewidth=0.5,
            zorder=2.5,
        )


def _draw_front(axes: Axes, points: Sequence[Point]) -> None:
    """The Pareto front of the points, as steps."""
    best = [one for one in points if not any(dominates(other, one) for other in points)]
    if len(best) > 1:
        x, y = zip(*sorted(best, key=lambda one: (one[0], -one[1])), strict=True)
        look: dict[str, Any] = {"color": "0.8", "linewidth": 4}  # wider than an error bar
        axes.plot(x, y, drawstyle="steps-pre", label=FRONT, zorder=1.5, **look)


def _sizes(settings: Sequence[SeedGroup]) -> dict[float | None, float]:
    """{lr: marker size}, linear in log lr; without an lr the smallest size."""
    known = sorted({one.lr for one in settings if one.lr is not None})
    sizes: dict[float | None, float] = {None: SMALLEST}
    for lr in known:
        share = math.log(lr / known[0]) / math.log(known[-1] / known[0]) if lr > known[0] else 0.0
        sizes[lr] = SMALLEST + (LARGEST - SMALLEST) * share
    return sizes


def _legend_handles(
    methods: dict[str, looks.Look], sizes: dict[float | None, float], with_base: bool
) -> list[Line2D]:
    def handle(label: str, marker: str, color: Any, size: float, line: Any = "") -> Line2D:
        look = {"marker": marker, "color": color, "markersize": size, **looks.OUTLINED}
        return Line2D([], [], label=label, linestyle=line, **look)

    handles = [handle("base model", "*", "black", 13)] if with_base else []
    for label, look in methods.items():
        handles.append(handle(looks.wrapped(label), look.marker, look.color, 8, look.line))
    lrs = sorted(lr for lr in sizes if lr is not None)
    if len(lrs) > 5:
        lrs = [lrs[0], lrs[len(lrs) // 2], lrs[-1]]
    return handles + [handle(f"lr {rate_text(lr)}", "o", "white", sizes[lr]) for lr in lrs]


def _label_points(axes: Axes, ends: Sequence[SeedGroup], blocked: Sequence[Point]) -> None:
    """Label each setting next to its mark, where the label covers no point and no other label."""
    radius = LARGEST
    taken = [
        Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)
        for x, y in axes.transData.transform(blocked)
    ]
    inside = axes.get_window_extent().padded(-radius / 2)
    # Diagonals first, as error bars are horizontal and vertical.
    directions = [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)]
    for one in ends:
        lr = "" if one.lr is None else f" {rate_text(one.lr)}"
        label = axes.annotate(
            f"{looks.wrapped(one.label)}{lr}",
            _mean(one),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
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
            if free and all(inside.contains(*corner) for corner in box.corners()):
                break
        taken.append(_text_box(label))


def _text_box(label: Any) -> Bbox:
    label.update_positions(label.figure.canvas.get_renderer())
    # Only the text: the box of an annotation includes its line.
    return Text.get_window_extent(label)
