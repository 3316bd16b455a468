"""The mark next to a method's name on the page: its marker in the figures, as SVG."""

import functools

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle

from talr_cli.report.figures.looks import look_of


@functools.cache
def glyph(label: str) -> str:
    """The mark of a run as SVG markup.

    Args:
        label: As `run_label`.
    """
    method = label.partition(" @")[0]
    look = look_of(method)
    style = MarkerStyle("*" if method == "base" else look.marker)
    color = "currentColor" if method == "base" else to_hex(look.color)
    polygons = style.get_path().transformed(style.get_transform()).to_polygons()
    outline = [np.asarray(polygon, float) for polygon in polygons]
    reach = float(np.abs(np.concatenate(outline)).max())
    lines = " ".join(
        "M" + "L".join(f"{8 + 7 * x / reach:.1f} {8 - 7 * y / reach:.1f}" for x, y in polygon) + "Z"
        for polygon in outline
    )
    return (
        '<svg class="mark" viewBox="0 0 16 16" width="11" height="11" aria-hidden="true">'
        f'<path d="{lines}" fill="{color}"/></svg>'
    )
