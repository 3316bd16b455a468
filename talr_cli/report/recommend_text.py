"""The text of a recommendation, for the terminal and the page."""

from collections.abc import Sequence

from talr_cli.printable import command_line, printable, rate_text
from talr_cli.report.recommend import Again, Candidate, NothingWithin, Recommendation
from talr_cli.statistics.pairs import Results, both_scores, run_label

ALTERNATIVES = 3

Sentences = Sequence[tuple[str, str]]  # a word that names the topic, and the sentence


def as_lines(sentences: Sentences) -> list[str]:
    """The sentences as lines for the terminal."""
    return [printable(f"{topic:8} {text}") for topic, text in sentences]


def as_sentences(found: Recommendation | NothingWithin, bound: float) -> Sentences:
    """The recommendation for one model and dataset; changes have their 95% intervals.

    Args:
        bound: The most that may be lost of the general score.
    """
    if isinstance(found, NothingWithin):
        return [
            ("ship", f"nothing: no run loses at most {bound:g} of the general score"),
            (
                "nearest",
                f"{found.nearest.name} loses {found.loss:z.3f}; raise max_general_loss, or train "
                "at a smaller lr",
            ),
        ]
    chosen, *others = found.candidates
    domain, general = both_scores(chosen.results)
    sentences = [("ship", chosen.path.name)]
    if found.gain.difference < 0 and found.gain.is_distinguishable:
        sentences.append(("but", "it lost on the domain: the base model does better"))
    elif found.gain.difference <= 0:
        sentences.append(("but", "it gained nothing on the domain: the base model is as good"))
    elif not found.gain.is_distinguishable:
        sentences.append(("but", "its gain on the domain may be noise"))
    costs = "nothing: it has the best domain score of all runs"
    if found.given_up is not None:
        best = _setting(found.unbound)
        costs = (
            f"{found.given_up.text} on the domain against {best}, the best run without the bound"
        )
    within = f"it is the only run (of {found.runs}) that loses"
    if others:
        count = len(found.candidates)
        within = f"it has the best domain score of the {count} runs (of {found.runs}) that lose"
    export = command_line(["talr", "export", f"run={chosen.path}", "out=DIRECTORY"])
    return [
        *sentences,
        (
            "sure",
            f"for this checkpoint: on resampled test items, it keeps within the bound in "
            f"{found.holds:.0%} of resamples and is picked again in {chosen.picked:.0%}; picking "
            f"the best run inflates its domain score by {found.optimism:z.3f} on average",
        ),
        ("again", _again(found.again)),
        ("why", f"{within} at most {bound:g} of the general score"),
        ("domain", f"{domain:.3f}, {found.gain.text} from the base"),
        ("general", f"{general:.3f}, {found.loss.text} from the base"),
        ("costs", costs),
        *(("or", _alternative(one)) for one in others[:ALTERNATIVES]),
        *(("left out:", f"{path.name}: {reason}") for path, reason in found.left_out.items()),
        ("export", export),
    ]


def _alternative(candidate: Candidate) -> str:
    domain, general = both_scores(candidate.results)
    scores = f"domain {domain:.3f}, general {general:.3f}"
    return f"{_setting(candidate.results)}: {scores}, picked in {candidate.picked:.0%}"


def _again(again: Again | None) -> str:
    if again is None:
        return (
            "it is not known how another training of this setting would do: no setting has several "
            "seeds"
        )
    domain, general = again.deviation
    seeds = f"{again.seeds} seed{'s' * (again.seeds > 1)}"
    return (
        f"over seeds and items: another run of this setting ({seeds} so far) keeps within the "
        f"bound with probability {again.holds:.0%}, and this setting is picked with probability "
        f"{again.picked:.0%}; the standard deviation between runs is {domain:.3f} (domain) and "
        f"{general:.3f} (general), estimated from {again.source}"
    )


def _setting(results: Results) -> str:
    run = results["run"]  # a checkpoint that was only scored has neither rate nor seed
    lr = "" if run["lr"] is None else f" lr {rate_text(run['lr'])}"
    seed = "" if run["seed"] is None else f" seed {run['seed']}"
    return f"{run_label(results)}{lr}{seed}"
