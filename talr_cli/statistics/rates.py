"""The effect of the learning rate alone: sft at its smallest rate against its largest."""

from talr_cli.printable import rate_text
from talr_cli.statistics.groups import Group
from talr_cli.statistics.matched import REFERENCE
from talr_cli.statistics.pairs import PARTS, has_both_scores
from talr_cli.statistics.seeds import final_settings, unambiguous_settings
from talr_cli.statistics.settings import scores_of


def rates_line(group: Group) -> str:
    """Both scores at the smallest rate less those at the largest, seeds averaged, in one line.

    Intervals are over items and runs; over items alone if no setting has several seeds, and then
    the line says so. Empty if there are no two rates, or they cannot be compared.
    """
    known = final_settings([one for one in group.runs if has_both_scores(one)])
    by_rate = {
        lr: one for (label, lr, _), one in unambiguous_settings(known).items() if label == REFERENCE
    }
    settings = {rate_text(lr): by_rate[lr] for lr in sorted(by_rate)}
    if len(settings) < 2:
        return ""
    small, *_, large = settings
    scores = scores_of({small: settings[small], large: settings[large]}, None, group.runs)
    if len(scores.index) < 2:
        return ""
    changes = {part: scores.contrast(part, {small: 1, large: -1}) for part in PARTS}
    text = ", ".join(f"{part} {one.change_text()}" for part, one in changes.items())
    sample = "; of these checkpoints" if changes["domain"].run_variance is None else ""
    return f"{REFERENCE} at lr {small} against {large}: {text}{sample}"
