"""How a recommendation is written, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.printable import command_line, printable, rate_text
from talr_cli.report.recommend import Again, NothingWithin, Recommendation
from talr_cli.statistics.pairs import Results, point, run_label

ALTERNATIVES = 3

Told = Sequence[tuple[str, str]]  # of each sentence a word for what it is about, and the sentence


def as_lines(told: Told) -> list[str]:
    """The sentences as lines for the terminal."""
    return [printable(f"{word:8} {text}") for word, text in told]


def told(found: Recommendation | NothingWithin, bound: float) -> Told:
    """What is said of one model and dataset; changes with their 95% intervals.

    Args:
        bound: The most that may be lost of the general score.
    """
    if isinstance(found, NothingWithin):
        return [
            ("ship", f"nothing: no run loses at most {bound:g} of the general score"),
            (
                "nearest",
                f"{found.nearest.name}, which loses {found.loss:z.3f}; raise max_general_loss or "
                "train at a smaller lr",
            ),
        ]
    chosen, *others = found.candidates
    domain, general = point(chosen.results)
    lines = [("ship", chosen.path.name)]
    if found.gain.difference < 0 and found.gain.is_distinguishable:
        lines.append(("but", "it lost on the domain: the base model does better"))
    elif found.gain.difference <= 0:
        lines.append(("but", "it gained nothing on the domain: the base model does as well"))
    elif not found.gain.is_distinguishable:
        lines.append(("but", "its gain on the domain may be noise"))
    lines += [
        (
            "sure",
            f"of this checkpoint: on resampled test items it keeps within the bound in "
            f"{found.holds:.0%} and is picked again in {chosen.picked:.0%}; picking the best adds "
            f"{found.optimism:z.3f} to a domain score by chance",
        ),
        ("again", _again(found.again)),
        (
            "why",
            f"the best domain score of {len(found.candidates)} of {found.runs} runs: those that "
            f"lose at most {bound:g} of the general score",
        ),
        ("domain", f"{domain:.3f}, {found.gain.text} from the base"),
        ("general", f"{general:.3f}, {found.loss.text} from the base"),
    ]
    if found.given_up is None:
        lines.append(("costs", "nothing of the domain score: it is the best without the bound too"))
    else:
        lines.append(
            (
                "costs",
                f"{found.given_up.text} on the domain against {_setting(found.unbound)}, the best "
                "without the bound",
            )
        )
    for other in others[:ALTERNATIVES]:
        domain, general = point(other.results)
        lines.append(
            (
                "or",
                f"{_setting(other.results)}: domain {domain:.3f}, general {general:.3f}, picked in "
                f"{other.picked:.0%}",
            )
        )
    lines += [("left out:", f"{path.name}: {reason}") for path, reason in found.left_out.items()]
    export = command_line(["talr", "export", f"run={chosen.path}", "out=DIRECTORY"])
    lines.append(("export", export))
    return lines


def _again(again: Again | None) -> str:
    if again is None:
        return (
            "how another training of this setting would do is not known: no setting has several "
            "seeds, which would tell"
        )
    domain, general = again.deviation
    seeds = f"{again.seeds} seed{'s' * (again.seeds > 1)}"
    return (
        f"over seeds and items: another run of this setting ({seeds} so far) keeps within the "
        f"bound in {again.holds:.0%} and its setting is picked in {again.picked:.0%}; runs "
        f"deviate by {domain:.3f} and {general:.3f}, known from {again.source}"
    )


def _setting(results: Results) -> str:
    run = results["run"]
    return f"{run_label(results)} lr {rate_text(run['lr'])} seed {run['seed']}"
