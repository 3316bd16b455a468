"""What the learning rate alone does: a method at its smallest rate against its largest."""

from __future__ import annotations

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE
from talr_cli.statistics.paired import Difference, UnpairedError, difference
from talr_cli.statistics.pairs import has_both_scores
from talr_cli.statistics.seeds import whole_trainings


def rates_line(group: Group) -> str:
    """Of sft's first seed at both ends of its rates: the study's first claim, as it came out here.

    Empty where there are no two rates, or they cannot be compared.
    """
    runs = {
        one.lr: one.runs[0]
        for one in whole_trainings(group.runs)
        if one.label == REFERENCE and one.lr is not None and has_both_scores(one.runs[0])
    }
    if len(runs) < 2:
        return ""
    small, large = min(runs), max(runs)
    try:
        found = {part: difference(runs[large], runs[small], part) for part in ("domain", "general")}
    except UnpairedError:
        return ""
    told = ", ".join(f"{part} {_text(one)}" for part, one in found.items())
    return f"{REFERENCE} at lr {rate_text(small)} against {rate_text(large)}: {told}"


def _text(found: Difference) -> str:
    return found.text + ("" if found.is_distinguishable else " ≈ 0")
