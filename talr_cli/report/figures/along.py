"""Scores against optimizer steps: what trainings did to domain, general score and drift.

One picture for each group of comparable runs that has points along a training; seeds are averaged.
Knows results only.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from talr_cli.printable import rate_text
from talr_cli.report.figures.looks import (
    EDGE,
    LINES,
    broken,
    faint_grid,
    method_looks,
    new_figure,
    ordered,
    save,
)
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, method_label, paths
from talr_cli.statistics.seeds import setting_of

FEW = 12  # of more settings error bars and thick lines hide each other


def plot_along(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw the groups that have points along a training; the files written."""
    files = []
    for group in groups:
        trainings = _trainings(group.runs)
        if trainings:
            files += save(draw_along(group, trainings), folder, f"along-{group.file_name}")
    return files


def _trainings(runs: Sequence[Results]) -> list[list[Results]]:
    """The scored weights of each training, in their order; those whose steps are known."""
    known = [one for one in runs if (one.get("training") or {}).get("steps")]
    return [path for path in paths(known) if len(path) > 1]


def draw_along(group: Group, trainings: Sequence[Sequence[Results]]) -> Figure:
    """Three panels, a line for each method and rate, from the base model at step 0 on."""
    looks = method_looks(group.runs)
    rates = sorted({path[0]["run"]["lr"] for path in trainings})
    lines: dict[float, Any] = {lr: LINES[place % len(LINES)] for place, lr in enumerate(rates)}
    panels: dict[str, str] = {
        "domain": "domain score",
        "general": "general score",
        "kl_from_base": "KL from base\n(nats per token)",
    }
    settings: dict[tuple[str, float, str], list[Sequence[Results]]] = {}
    for path in trainings:
        made_with = setting_of(path) or ""
        settings.setdefault((method_label(path[0]), _lr(path[0]), made_with), []).append(path)
    shown = [
        one
        for label in ordered({label for label, *_ in settings})
        for one in sorted(settings)
        if one[0] == label
    ]
    figure = new_figure(6.4, 7.4)
    drawn = figure.subplots(len(panels), 1, sharex=True)
    for axes, (part, title) in zip(drawn, panels.items(), strict=True):
        for one in shown:
            label, lr, _ = one
            look = looks[label]
            style = {"color": look.color, "marker": look.marker, "linestyle": lines[lr]}
            paths = [_values(group.base, path, part) for path in settings[one]]
            _draw_line(axes, _averaged(paths), style, len(settings) > FEW)
        before = _measured(group.base, part) if group.base else None
        if before is not None and part != "kl_from_base":
            axes.axhline(before[0], color="0.4", linestyle=":", linewidth=1, zorder=1)
        axes.set_ylabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        faint_grid(axes)
    drawn[-1].set_xlabel("optimizer step", fontsize=9)
    figure.suptitle(broken(group.title, 65), fontsize=10)
    handles = [
        Line2D(
            [],
            [],
            color=looks[method].color,
            marker=looks[method].marker,
            linestyle=lines[lr],
            markersize=5,
            label=broken(f"{method}, lr {rate_text(lr)}"),
        )
        for method, lr in dict.fromkeys((method, lr) for method, lr, _ in shown)
    ]
    several = any(len(paths) > 1 for paths in settings.values())
    errors = "error bars: 1 s.e. over items" + ("; of several seeds: 1 s.d." if several else "")
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        handlelength=3.5,
        title=None if len(settings) > FEW else errors,
        title_fontsize=8,
    )
    return figure


def _averaged(
    paths: Sequence[list[tuple[int, float, float]]],
) -> list[tuple[int, float, float]]:
    """The mean of the seeds at each step that all have, with their deviation; one seed as it is."""
    if len(paths) == 1:
        return paths[0]
    known = [{step: (score, error) for step, score, error in path} for path in paths]
    steps = sorted(set.intersection(*({*one} for one in known)))
    found = []
    for step in steps:
        scores = [one[step][0] for one in known]
        # They all begin as the base model.
        error = statistics.stdev(scores) if step else known[0][step][1]
        found.append((step, statistics.fmean(scores), error))
    return found


def _lr(results: Results) -> float:
    return float(results["run"]["lr"])


def _values(
    base: Results | None, path: Sequence[Results], part: str
) -> list[tuple[int, float, float]]:
    """(step, score, its error) of each scored point; the base model is step 0, its KL nothing."""
    start = (0.0, 0.0) if part == "kl_from_base" else base and _measured(base, part)
    found = [(0, *start)] if start else []
    for one in path:
        measured = _measured(one, part)
        if measured is not None:
            found.append((one["training"]["steps"], *measured))
    return found


def _measured(results: Results, part: str) -> tuple[float, float] | None:
    """A score and its error, 0 where it has none."""
    section = results.get(part)
    if part == "kl_from_base":
        section = (results.get("drift") or {}).get(part)
    if not section or section.get("score") is None:
        return None
    return section["score"], section.get("stderr") or 0.0


def _draw_line(
    axes: Axes, values: Sequence[tuple[int, float, float]], style: dict[str, Any], crowded: bool
) -> None:
    if len(values) < 2:
        return
    steps, scores, errors = zip(*values, strict=True)
    axes.errorbar(
        steps,
        scores,
        yerr=None if crowded else errors,
        markersize=2.5 if crowded else 4.5,
        markeredgecolor=EDGE,
        markeredgewidth=0.2 if crowded else 0.5,
        linewidth=0.7 if crowded else 1.3,
        alpha=0.8 if crowded else 1.0,
        elinewidth=0.8,
        **style,
    )
