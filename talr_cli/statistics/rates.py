"""What the learning rate alone does: a method at its smallest rate against its largest."""

from __future__ import annotations

from talr_cli.printable import rate_text
from talr_cli.statistics.contrasts import Contrast
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE
from talr_cli.statistics.paired import with_interval
from talr_cli.statistics.pairs import has_both_scores
from talr_cli.statistics.seeds import only_settings, whole_trainings
from talr_cli.statistics.settings import Part, scores_of

_PARTS: tuple[Part, Part] = ("domain", "general")


def rates_line(group: Group) -> str:
    """Of sft at both ends of its rates, its seeds averaged: what the study's first claim is about.

    Intervals are over items and runs, or said to be of these checkpoints. Empty where there are no
    two rates, or they cannot be compared.
    """
    known = whole_trainings([one for one in group.runs if has_both_scores(one)])
    by_rate = {
        lr: one for (label, lr, _), one in only_settings(known).items() if label == REFERENCE
    }
    settings = {rate_text(lr): by_rate[lr] for lr in sorted(by_rate)}
    if len(settings) < 2:
        return ""
    small, *_, large = settings
    scores = scores_of({small: settings[small], large: settings[large]}, None, group.runs)
    if len(scores.place) < 2:
        return ""
    found = [scores.contrast(part, {small: 1, large: -1}) for part in _PARTS]
    told = ", ".join(f"{part} {_text(one)}" for part, one in zip(_PARTS, found, strict=True))
    sample = "; of these checkpoints" if found[0].runs is None else ""
    return f"{REFERENCE} at lr {small} against {large}: {told}{sample}"


def _text(found: Contrast) -> str:
    low, high = found.interval()
    shown = with_interval(found.estimate, low, high)
    return shown + (" ≈ 0" if low <= 0 <= high else "")
