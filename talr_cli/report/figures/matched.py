"""The picture of methods at an equal domain score: a line for each method against sft.

What the numbers mean is said in `statistics.matched`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from talr_cli.report.figures.looks import EDGE, broken, faint_grid, look_of, new_figure, save
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE, Matched, matched


def plot_matched(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw each group whose methods can be compared, as .png and .svg; the files written."""
    files = []
    for group in groups:
        found = matched(group)
        if found:
            files += save(draw_matched(found, group.title), folder, f"matched-{group.file_name}")
    return files


def draw_matched(found: Sequence[Matched], title: str) -> Figure:
    """The differences of the general score with their intervals, the best method on top."""
    figure = new_figure(6.4, 1.5 + 0.42 * len(found))
    axes = figure.add_subplot()
    names = [f"{broken(one.method)}, at {one.domain:.3f}" for one in found]
    axes.axvline(0, color=look_of(REFERENCE).color, linewidth=1.5, zorder=1)
    for place, one in enumerate(found):
        look = look_of(one.method)
        axes.errorbar(
            one.difference,
            place,
            xerr=[[max(0.0, one.difference - one.low)], [max(0.0, one.high - one.difference)]],
            marker=look.marker,
            color=look.color,
            markersize=9,
            markeredgecolor=EDGE,
            markeredgewidth=0.8,
            elinewidth=2.2,
            # What is not told from noise is drawn open.
            markerfacecolor=look.color if one.verdict.startswith("forgets") else "white",
        )
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.margins(x=0.08)
    faint_grid(axes)
    # Under the whole figure: under the axes alone, beside long names, it would be cut off.
    figure.supxlabel(
        f"general score less that of {REFERENCE} (line at 0) at the same domain score;\n"
        "95% intervals for all methods together; filled: told from noise",
        fontsize=10,
    )
    axes.set_title(broken(title, 65), fontsize=10)
    return figure
