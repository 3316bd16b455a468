"""The style of all figures: how a method looks, and how a figure is written.

Colour, marker and line depend on the method alone, so that they do not change as a study grows.
Known methods first have the colours of Okabe and Ito (2008), then those of Tol (2021), which are
safe for colour-blind readers; if two are similar, their markers differ. The look of a user's own
method is derived from its name.
"""

import colorsys
import hashlib
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from talr_cli.printable import printable
from talr_cli.runs.atomic import write_bytes
from talr_cli.statistics.pairs import Results, is_base, method_label

LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 3)))
# Colour and marker; the line follows from the position in the list. sft and talr, which are
# compared most often, look most different.
KNOWN = {
    "sft": ("#0072B2", "o"),
    "talr": ("#D55E00", "D"),
    "l2": ("#009E73", "s"),
    "lora": ("#CC79A7", "^"),
    "averaging": ("#E69F00", "v"),
    "flow": ("#56B4E9", "P"),
    "dft": ("#332288", "<"),
    "eaft": ("#882255", ">"),
    "infosft": ("#999933", "X"),
    "deft": ("#44AA99", "h"),
    "kl": ("#AA4499", "p"),
    "replay": ("#7A4F2B", "d"),
    "asft": ("#117733", "8"),
    # There are no more clearly distinct markers: from here on they are used again.
    "stm": ("#A6761D", "^"),
    "tailsft": ("#1B9E77", "X"),
    "talr-base": ("#7570B3", "s"),
    "talr-shuffled": ("#E7298A", "v"),
    "finch": ("#66A61E", "P"),
    "lines": ("#E6AB02", "d"),
    "ema": ("#666666", "<"),
    "dora": ("#A50026", ">"),
    "rslora": ("#4D4D80", "h"),
    "oft": ("#8FB8DE", "p"),
    "self-sft": ("#FDB462", "8"),
    "self-replay": ("#5B8C5A", "H"),
}
OWN_MARKERS = "sX^vPd<>hp8"  # without the circle of sft and the diamond of talr
# Hues (from 0 to 1) of a user's own methods, away from those of sft and talr.
OWN_HUES = ((0.15, 0.48), (0.66, 0.97))
EDGE = "#222222"
OUTLINED: dict[str, Any] = {"markeredgecolor": EDGE, "markeredgewidth": 0.8}
NAME_WIDTH = 26  # characters; longer names are wrapped


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    marker: str
    color: tuple[float, float, float]
    line: Any


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sized in inches, without a window and pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def faint_grid(axes: Axes) -> None:
    """A light grid behind the data."""
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(
    figure: Figure, handles: Sequence[Line2D], columns: int, size: int, **look: Any
) -> None:
    """A legend below all panels, with at most so many columns, and fewer if they are too wide.

    Args:
        size: Of its letters and its title, in points.
    """
    look |= {"fontsize": size, "title_fontsize": size, "frameon": False}
    for count in range(columns, 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=count, **look)
        if legend.get_window_extent().width <= figure.bbox.width or count == 1:
            return
        legend.remove()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.svg to `folder`; equal figures give equal bytes."""
    files = []
    for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(content, format=suffix[1:], **options)
        files.append(folder / f"{name}{suffix}")
        write_bytes(files[-1], content.getvalue())
    return files


def method_looks(results: Sequence[Results]) -> dict[str, Look]:
    """{method label: its look} of the fine-tuned runs, in the order of `ordered`."""
    labels = {method_label(one) for one in results if not is_base(one)}
    return {label: look_of(label) for label in ordered(labels)}


def ordered(labels: Iterable[str]) -> list[str]:
    """Method labels in the order of legends: known methods first, then by name."""
    return sorted(labels, key=_order)


def look_of(label: str) -> Look:
    """The look of a method by its label; averages with alpha above a half are darker."""
    method, _, alpha = label.partition(" α=")
    if method in KNOWN:
        shade, marker = KNOWN[method]
        color, line = to_rgb(shade), LINES[[*KNOWN].index(method) % len(LINES)]
    else:
        color, marker, line = _own(method)
    return Look(marker, _towards(color, 0.5 - float(alpha)) if alpha else color, line)


def shades(color: tuple[float, float, float], n: int) -> list[tuple[float, float, float]]:
    """n shades of a colour from light to dark, all visible on white; a single one is unchanged."""
    if n == 1:
        return [color]
    return [_towards(color, 0.5 - 0.75 * index / (n - 1)) for index in range(n)]


def error_bar_note(several_seeds: bool) -> str:
    """The meaning of the error bars, for the legend."""
    several = "; of several seeds: 1 s.d." if several_seeds else ""
    return f"error bars: 1 s.e. over items{several}"


def _order(label: str) -> tuple[int, str]:
    names = [*KNOWN]
    method = label.partition(" α=")[0]
    return (names.index(method) if method in names else len(names), label)


def _own(method: str) -> tuple[tuple[float, float, float], str, Any]:
    digest = hashlib.sha256(method.encode(errors="replace")).digest()
    first, second = OWN_HUES
    place = int.from_bytes(digest[:2], "big") / 2**16 * sum(end - start for start, end in OWN_HUES)
    width = first[1] - first[0]
    hue = first[0] + place if place < width else second[0] + place - width
    color = colorsys.hls_to_rgb(hue, 0.3 + 0.15 * digest[2] / 255, 0.65)
    return color, OWN_MARKERS[digest[3] % len(OWN_MARKERS)], LINES[digest[4] % len(LINES)]


def _towards(color: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """A colour mixed with white by a share from 0 to 1, or with black by a share from 0 to -1."""
    end = 1.0 if share > 0 else 0.0
    red, green, blue = (part + (end - part) * abs(share) for part in color)
    return red, green, blue


def wrapped(name: str, width: int = NAME_WIDTH) -> str:
    """A name wrapped to lines of at most `width` characters, with $ escaped for matplotlib.

    If possible, lines are broken after a space or one of -+_/, but not inside a rate.
    """
    lines = [""]
    for word in re.split(r"(?<=[\s+_/])|(?<=-)(?!\d)", printable(name)):
        if lines[-1] and len((lines[-1] + word).rstrip()) > width:
            lines.append("")
        while len(word.rstrip()) > width:
            lines[-1:] = [word[:width], ""]
            word = word[width:]
        lines[-1] += word
    return "\n".join(line.strip() for line in lines).replace("$", r"\$")


def panel_grid(panels: int) -> tuple[int, int]:
    """(rows, columns) of a grid of panels, with at most three in a row."""
    columns = min(3, panels)
    return math.ceil(panels / columns), columns
