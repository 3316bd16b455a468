"""Score against learning rate, with a line for each method.

One figure for each group of comparable runs.
"""

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from talr_cli.printable import rate_text
from talr_cli.report.figures import looks
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import PARTS, Results, is_base, score_of
from talr_cli.statistics.seeds import SeedGroup, curves, final_settings

SPREAD = 0.5  # the share of the gap between two rates over which methods are spread
MOST_TICKS = 8


def draw_score_by_lr(group: Group) -> Figure | None:
    """Domain and general score against lr, a panel each; None if no run with an lr has either."""
    settings = [one for one in final_settings(group.runs) if one.lr is not None]
    parts = [part for part in PARTS if any(one.estimate(part) for one in settings)]
    if not parts:
        return None
    lrs = sorted({one.lr for one in settings if one.lr is not None})
    figure = looks.new_figure(6.4, 3.0 * len(parts) + 1.3)
    panels = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _draw_part(axes, part, group.runs, settings, lrs)
    handles, _ = panels[0].get_legend_handles_labels()
    note = looks.error_bar_note(any(len(one.runs) > 1 for one in settings))
    looks.legend_below(
        figure, handles, columns=4, size=9, title=note, columnspacing=1.2, handlelength=3
    )
    figure.suptitle(looks.wrapped(group.title, 65), fontsize=10)
    return figure


def _draw_part(
    axes: Axes,
    part: str,
    runs: Sequence[Results],
    settings: Sequence[SeedGroup],
    lrs: Sequence[float],
) -> None:
    """One panel: a line for each method, or several if its rates are of several settings."""
    base = next((one for one in runs if is_base(one)), None)
    level = score_of(base, part) if base else None
    if level is not None:
        axes.axhline(level, color="0.4", linestyle=":", zorder=1, label="base model")
    width = _gap(lrs) * SPREAD
    labels = looks.ordered({one.label for one in settings})
    for index, label in enumerate(labels):
        look = looks.look_of(label)
        # Methods are drawn side by side, so that error bars at the same lr do not overlap.
        shift = 10 ** (width * ((index + 0.5) / len(labels) - 0.5))
        own = [one for one in settings if one.label == label and one.estimate(part)]
        for number, curve in enumerate(curves(own)):
            line = sorted(
                (one.lr * shift, estimate.score, estimate.stderr or 0.0)
                for one in curve
                if one.lr is not None and (estimate := one.estimate(part))
            )
            rates, scores, errors = zip(*line, strict=True)
            axes.errorbar(
                rates,
                scores,
                yerr=errors,
                label=None if number else looks.wrapped(label),
                color=look.color,
                linestyle=look.line,
                linewidth=1.2,
                marker=look.marker,
                markersize=6.5,
                ecolor="0.45",
                elinewidth=0.8,
                **looks.OUTLINED,
            )
    _set_lr_axis(axes, lrs)
    section = next(one[part] for one in runs if score_of(one, part) is not None)
    measure = section["metric"] if part == "domain" else f"score ({section['formula']})"
    axes.set_ylabel(looks.wrapped(f"{part} {measure}", 60))


def _set_lr_axis(axes: Axes, lrs: Sequence[float]) -> None:
    axes.set_xscale("log")
    margin = max(_gap(lrs) * 0.6, 0.1)
    axes.set_xlim(lrs[0] / 10**margin, lrs[-1] * 10**margin)
    axes.set_xticks(lrs[:: math.ceil(len(lrs) / MOST_TICKS)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: rate_text(lr)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8, rotation=30 if len(lrs) > 4 else 0)
    looks.faint_grid(axes)
    axes.set_xlabel("learning rate")


def _gap(lrs: Sequence[float]) -> float:
    """The smallest gap between two learning rates in decades; 1 for a single rate."""
    gaps = [math.log10(b / a) for a, b in itertools.pairwise(lrs)]
    return min(gaps, default=1.0)
