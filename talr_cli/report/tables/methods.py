"""The table of methods by learning rate: scores averaged over seeds, and changes from the base.

If the scores of the items are known, changes are contrasts over items and runs. If not, they are
differences of independent means, whose error is an upper bound if answers are correlated.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from talr_cli.report.figures.looks import ordered
from talr_cli.report.tables.abilities import contrast_cells, contrast_columns
from talr_cli.report.tables.cells import Cell, Cells, Column, fixed, named, pair_cells, pair_columns
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.estimates import estimate_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import PARTS, Results, has_both_scores, measured_alike, run_label
from talr_cli.statistics.seeds import SeedGroup, seed_groups
from talr_cli.statistics.settings import Part, Scores, scores_of

LEGEND = (
    "Means over the seeds of each method and learning rate. Δ is the change from the base model "
    "on the same items with its 95% interval over items and runs. The variance between runs is "
    "pooled over all settings with several seeds; with one seed per setting it is unknown, and "
    "intervals are about these checkpoints. ≈ 0: not distinguishable from noise. KL: divergence "
    "from the base model in nats per token."
)


@dataclass(frozen=True)
class Line:
    """A row: the base model or a setting. `runs` are its seeds; `changes` are by part."""

    group: Group
    label: str
    lr: float | None
    runs: Sequence[Results]
    changes: dict[Part, Contrast | None]


def method_lines(group: Group) -> list[Line]:
    """The base model, then methods in the order of legends, sorted by rate and point."""
    # Named by number, as two settings may have the same label.
    settings = {str(place): one for place, one in enumerate(seed_groups(group.runs))}
    whole = {name: one for name, one in settings.items() if all(map(has_both_scores, one.runs))}
    base = group.base if group.base and has_both_scores(group.base) else None
    scores = scores_of(whole, base, group.runs) if base and whole else None
    labels = ordered({one.label for one in settings.values()})
    lines = [Line(group, "base", None, [group.base], {})] if group.base else []
    for name, one in sorted(
        settings.items(),
        key=lambda named: (labels.index(named[1].label), named[1].lr or 0.0, named[1].share),
    ):
        changes: dict[Part, Contrast | None] = {
            part: _change(one, name, group.base, scores, part) for part in PARTS
        }
        lines.append(Line(group, run_label(one.runs[0]), one.lr, one.runs, changes))
    return lines


def fewer_cells(every: Sequence[Line], most: int) -> tuple[Cells, str]:
    """As `methods_cells`, but if there are more than `most` rows, only the best one per method.

    Best is the setting with the highest domain score. The text says what is shown, if not all.
    """
    if len(every) <= most:
        return methods_cells(every), ""
    of_method: dict[tuple[str, str], list[Line]] = {}
    for one in every:
        of_method.setdefault((one.group.title, one.label.partition(" @")[0]), []).append(one)

    def domain(line: Line) -> float:
        score = _mean(one["domain"] for one in line.runs)
        return -math.inf if score is None else score

    best = [max(lines, key=domain) for lines in of_method.values()]
    kept = [one for one in every if any(one is each for each in best)]
    shown = f"for each method the setting with the best domain score, of {len(every)} settings"
    return methods_cells(kept), shown


def methods_cells(lines_of: Sequence[Line]) -> Cells:
    """The table of the `method_lines` of some groups, or of some of their lines."""
    lines = [
        [
            *pair_cells(one.group),
            *map(named, (one.label, one.lr, len(one.runs))),
            *_score_cells(one, "domain"),
            *_score_cells(one, "general"),
            fixed(_mean((run["drift"] or {}).get("kl_from_base") for run in one.runs)),
        ]
        for one in lines_of
    ]
    parts = [
        column
        for part in PARTS
        for column in (
            Column(part, part, number=True),
            *contrast_columns(f"{part}_change", f"Δ {part}"),
        )
    ]
    columns = [
        *pair_columns(len({id(one.group) for one in lines_of})),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("seeds", "seeds", number=True),
        *parts,
        Column("kl_from_base", "KL", number=True),
    ]
    return Cells(columns, lines)


def _change(
    setting: SeedGroup, name: str, base: Results | None, scores: Scores | None, part: Part
) -> Contrast | None:
    """The change of a part from the base model; None if it is not known.

    Args:
        name: The name of the setting in `scores`.
    """
    if scores is not None and name in scores.index and "base" in scores.index:
        return scores.contrast(part, {name: 1, "base": -1})
    if base is None or not all(measured_alike(one, base, part) for one in setting.runs):
        return None
    before = estimate_of(base[part])
    known = [found for one in setting.runs if (found := estimate_of(one[part]))]
    errors = [one.stderr for one in known if one.stderr is not None]
    if before is None or before.stderr is None or not known or len(errors) < len(known):
        return None
    values = [one.score for one in known]
    return Contrast(
        estimate=statistics.fmean(values) - before.score,
        item_variance=math.fsum(error**2 for error in errors) / len(errors) + before.stderr**2,
        run_variance=statistics.variance(values) / len(values) if len(values) > 1 else None,
        df=max(1, len(known) - 1),
        n=base[part]["n"],
    )


def _score_cells(line: Line, part: Part) -> list[Cell]:
    change = line.changes.get(part)
    changes = [Cell()] * 3 if change is None else contrast_cells(change)
    return [fixed(_mean(one[part] for one in line.runs)), *changes]


def _mean(sections: Iterable[dict[str, Any] | None]) -> float | None:
    """The mean of the known scores among sections of results.json; None if there is none."""
    known = [found.score for one in sections if (found := estimate_of(one))]
    return statistics.fmean(known) if known else None
