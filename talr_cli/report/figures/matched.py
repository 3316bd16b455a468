"""The figure of methods at an equal domain score, each against sft; see `statistics.matched`."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from talr_cli.report.figures.looks import OUTLINED, faint_grid, look_of, new_figure, wrapped
from talr_cli.statistics.matched import REFERENCE, Matched


def draw_matched(found: Sequence[Matched], title: str) -> Figure | None:
    """The differences of the general score with their intervals, the best method on top.

    None if there are none.
    """
    if not found:
        return None
    figure = new_figure(6.4, 1.5 + 0.42 * len(found))
    axes = figure.add_subplot()
    names = [f"{wrapped(one.method)}, at {one.domain:.3f}" for one in found]
    axes.axvline(0, color=look_of(REFERENCE).color, linewidth=1.5, zorder=1)
    for row, one in enumerate(found):
        look = look_of(one.method)
        axes.errorbar(
            one.difference,
            row,
            xerr=[[max(0.0, one.difference - one.low)], [max(0.0, one.high - one.difference)]],
            marker=look.marker,
            color=look.color,
            markersize=9,
            elinewidth=2.2,
            **OUTLINED,
            # Open: not distinguishable from noise.
            markerfacecolor=look.color if one.verdict.startswith("forgets") else "white",
        )
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.margins(x=0.08)
    faint_grid(axes)
    # Below the whole figure, as it would be cut off below axes that are narrowed by long names.
    figure.supxlabel(
        f"general score minus that of {REFERENCE} (line at 0) at the same domain score;\n"
        "95% intervals for all methods together; filled: more than noise",
        fontsize=10,
    )
    axes.set_title(wrapped(title, 65), fontsize=10)
    return figure
