"""Domain score, general score and drift against optimizer steps, along each training.

One figure for each group of comparable runs with points along a training; seeds are averaged.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from talr_cli.printable import rate_text
from talr_cli.report.figures import looks
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, method_label, trajectories
from talr_cli.statistics.seeds import setting_of

FEW = 12  # with more settings, error bars and thick lines would hide each other
PANELS = {
    "domain": "domain score",
    "general": "general score",
    "kl_from_base": "KL from base\n(nats per token)",
}
Curve = list[tuple[int, float, float]]  # (step, score, error)


def draw_along(group: Group) -> Figure | None:
    """Three panels, with a line from the base model at step 0 for each method and rate.

    None if the group has no points along a training.
    """
    # Without runs of an unknown number of steps.
    timed = (one for one in group.runs if (one.get("training") or {}).get("steps"))
    seeds: dict[tuple[str, float, str], list[Sequence[Results]]] = {}
    for path in trajectories(timed):
        key = method_label(path[0]), path[0]["run"]["lr"], setting_of(path) or ""
        seeds.setdefault(key, []).append(path)
    if not seeds:
        return None
    known = looks.method_looks(group.runs)
    legend = [*known]
    settings = sorted(seeds, key=lambda one: (legend.index(one[0]), *one[1:]))
    rates = sorted({lr for _, lr, _ in settings})
    lines = {lr: looks.LINES[index % len(looks.LINES)] for index, lr in enumerate(rates)}
    styles: dict[tuple[str, float], dict[str, Any]] = {}
    for label, lr, _ in settings:
        look = known[label]
        styles[label, lr] = {"color": look.color, "marker": look.marker, "linestyle": lines[lr]}
    crowded = len(settings) > FEW
    sizes: dict[str, Any] = {"markeredgecolor": looks.EDGE, "markersize": 4.5, "linewidth": 1.3}
    sizes |= {"markeredgewidth": 0.5, "alpha": 1.0}
    if crowded:
        sizes |= {"markersize": 2.5, "linewidth": 0.7, "markeredgewidth": 0.2, "alpha": 0.8}
    figure = looks.new_figure(6.4, 7.4)
    drawn = figure.subplots(len(PANELS), 1, sharex=True)
    for axes, (part, title) in zip(drawn, PANELS.items(), strict=True):
        for one in settings:
            curve = _averaged([_curve(group.base, path, part) for path in seeds[one]])
            if len(curve) > 1:
                steps, scores, errors = zip(*curve, strict=True)
                bars = None if crowded else errors
                axes.errorbar(steps, scores, yerr=bars, elinewidth=0.8, **(sizes | styles[one[:2]]))
        before = _measured(group.base, part) if group.base else None
        if before is not None and part != "kl_from_base":
            axes.axhline(before[0], color="0.4", linestyle=":", linewidth=1, zorder=1)
        axes.set_ylabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        looks.faint_grid(axes)
    drawn[-1].set_xlabel("optimizer step", fontsize=9)
    figure.suptitle(looks.wrapped(group.title, 65), fontsize=10)
    looks.legend_below(
        figure,
        [
            Line2D(
                [], [], markersize=5, label=looks.wrapped(f"{label}, lr {rate_text(lr)}"), **style
            )
            for (label, lr), style in styles.items()
        ],
        columns=3,
        size=8,
        handlelength=3.5,
        title=None
        if crowded
        else looks.error_bar_note(any(len(each) > 1 for each in seeds.values())),
    )
    return figure


def _averaged(curves: Sequence[Curve]) -> Curve:
    """Mean and standard deviation over seeds at the steps that all have; one seed unchanged."""
    if len(curves) == 1:
        return curves[0]
    known = [{step: (score, error) for step, score, error in curve} for curve in curves]
    steps = sorted(set.intersection(*({*one} for one in known)))
    curve = []
    for step in steps:
        scores = [one[step][0] for one in known]
        # All seeds start from the base model, whose error is that over items.
        error = statistics.stdev(scores) if step else known[0][step][1]
        curve.append((step, statistics.fmean(scores), error))
    return curve


def _curve(base: Results | None, path: Sequence[Results], part: str) -> Curve:
    """The base model at step 0, whose KL is 0, and the scored points of a training."""
    start = (0.0, 0.0) if part == "kl_from_base" else base and _measured(base, part)
    found = [(0, *start)] if start else []
    for one in path:
        measured = _measured(one, part)
        if measured is not None:
            found.append((one["training"]["steps"], *measured))
    return found


def _measured(results: Results, part: str) -> tuple[float, float] | None:
    """The score of one of PANELS and its error, or 0 without an error."""
    section = (results["drift"] or {}).get(part) if part == "kl_from_base" else results[part]
    found = estimate_of(section)
    return None if found is None else (found.score, found.stderr or 0.0)
