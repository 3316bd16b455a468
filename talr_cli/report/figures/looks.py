"""What all pictures of a report share: the look of a method, the ways to write a picture.

Methods differ in marker, lightness and line, so that they stay apart in greyscale.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from talr_cli.printable import printable
from talr_cli.runs.atomic import write_bytes
from talr_cli.statistics.pairs import Results, is_base, method_label

MARKERS = "osD^vPX<>hpd8"
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 3)))
EDGE = "#222222"
NAME_WIDTH = 26  # characters; longer names are broken


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    marker: str
    color: tuple[float, float, float, float]
    line: Any


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that belongs to no window and to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def faint_grid(axes: Axes) -> None:
    """Lines behind the data that help to read a value off."""
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.svg to `folder`; the same figure gives the same bytes."""
    files = []
    for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
        picture = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(picture, format=suffix[1:], **options)
        files.append(folder / f"{name}{suffix}")
        write_bytes(files[-1], picture.getvalue())
    return files


def method_looks(results: Sequence[Results]) -> dict[str, Look]:
    """{method label: its look} of the runs of one model on one dataset, without the base model."""
    labels = sorted({method_label(one) for one in results if not is_base(one)})
    return {
        label: Look(MARKERS[place % len(MARKERS)], shade, LINES[place % len(LINES)])
        for place, (label, shade) in enumerate(zip(labels, lightness(len(labels)), strict=True))
    }


def lightness(n: int) -> list[tuple[float, float, float, float]]:
    """n colors from light to dark, all of them visible as a line on white; one is dark."""
    scale = matplotlib.colormaps["cividis"]
    return [scale(0.05 + 0.8 * place / max(1, n - 1)) for place in reversed(range(n))]


def broken(name: str, width: int = NAME_WIDTH) -> str:
    """A name in lines of at most `width` characters; a $ in it does not begin a formula."""
    name = printable(name)
    return ("\n".join(textwrap.wrap(name, width)) or name).replace("$", r"\$")


def panel_grid(panels: int) -> tuple[int, int]:
    """(rows, columns) of small multiples: at most four beside each other."""
    columns = min(4, panels)
    return math.ceil(panels / columns), columns
