"""What the learning rate alone does: sft at its smallest rate against its largest."""

from __future__ import annotations

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE
from talr_cli.statistics.pairs import PARTS, has_both_scores
from talr_cli.statistics.seeds import only_settings, whole_trainings
from talr_cli.statistics.settings import scores_of


def rates_line(group: Group) -> str:
    """One line on both scores at the smallest rate less those at the largest, seeds averaged.

    Intervals are over items and runs; where no setting has several seeds, over items alone, which
    is said. Empty where there are no two rates, or they cannot be compared.
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
    found = {part: scores.contrast(part, {small: 1, large: -1}) for part in PARTS}
    told = ", ".join(f"{part} {one.change_text()}" for part, one in found.items())
    sample = "; of these checkpoints" if found["domain"].runs is None else ""
    return f"{REFERENCE} at lr {small} against {large}: {told}{sample}"
