"""The number of choices of each item and the chosen one, read from samples/ of runs."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from talr_cli.runs.samples import read_items
from talr_cli.statistics.abilities import Guesses
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, RunsByPath, is_base, parts_of, section_of

Choice = tuple[int, Hashable]  # number of choices (1: the answer was generated), the chosen one


def guesses_of(group: Group, runs: RunsByPath) -> Guesses:
    """The guesses of all runs of the group; parts without samples are missing."""
    if group.base is None:
        return Guesses({}, {})
    own = group.by_path(runs)
    base_path = next(iter(own))
    choices: dict[str, dict[str, int]] = {}
    moved: dict[str, dict[str, frozenset[str]]] = {}
    for part in parts_of(group.base):
        section = section_of(group.base, part) or {}
        base = _chosen(base_path, part, section, section.get("items") or {})
        if not base:
            continue
        choices[part] = {key: number for key, (number, _) in base.items()}
        for path, one in own.items():
            if not is_base(one):
                known = _moved(path, one, part, section, base)
                if known is not None:
                    moved.setdefault(one["run"]["id"], {})[part] = known
    return Guesses(choices, moved)


def _moved(
    path: Path, one: Results, part: str, section: Mapping[str, Any], base: Mapping[str, Choice]
) -> frozenset[str] | None:
    """Items that base model and run both have wrong, with different answers; None if unknown."""
    before, after = section.get("items") or {}, (section_of(one, part) or {}).get("items") or {}
    wrong = {
        key
        for key, (number, _) in base.items()
        if number > 2 and before.get(key) == 0 and after.get(key) == 0
    }
    if not wrong:
        return frozenset()
    chosen = _chosen(path, part, section, wrong)
    if not wrong <= chosen.keys():
        return None
    return frozenset(key for key in wrong if chosen[key][1] != base[key][1])


def _chosen(
    path: Path, part: str, section: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, Choice]:
    """{item: choice} of the wanted items; items without an intact sample are missing."""

    def choice(sample: Mapping[str, Any]) -> Choice | None:
        try:
            return _choice(sample, part, section)
        except (ValueError, TypeError, LookupError):
            return None  # also for a task that scores a whole text, which has no choices

    found = read_items(path / "samples", part, wanted, choice)
    return {key: one for key, one in found.items() if one is not None}


def _choice(sample: Mapping[str, Any], part: str, section: Mapping[str, Any]) -> Choice:
    """The choice that a sample records.

    Raises:
        ValueError, TypeError, LookupError: The sample is damaged.
    """
    if part == "domain":
        if section.get("answer_by") != "likelihood":
            return 1, None
        return len(sample["log_probabilities"]), str(sample["output"])
    if isinstance(sample["resps"][0][0], str):
        return 1, None
    return likeliest(sample, section)


def likeliest(sample: Mapping[str, Any], section: Mapping[str, Any]) -> tuple[int, int]:
    """The number of choices that lm-eval compared, and the index of the chosen one.

    Args:
        sample: A line of samples/.
        section: The task's section in results.json; its metric says how choices are compared.

    Raises:
        ValueError, TypeError, LookupError: The sample is damaged.
    """
    responses: Sequence[Any] = sample["resps"]
    answers = [str(one[1]) for one in sample["arguments"]]
    scores = [float(response[0][0]) for response in responses]
    metric = section.get("metric", "").partition(",")[0]
    if any("acc_mutual_info" in each for each in section.get("all", {})):
        # The choices are followed by the same choices without the question.
        number = len(scores) // 2
        answers, scores, unconditional = answers[:number], scores[:number], scores[number:]
        if metric == "acc_mutual_info":
            scores = [score - other for score, other in zip(scores, unconditional, strict=True)]
    if metric in ("acc_norm", "acc_bytes"):
        texts = (answer.strip() for answer in answers)
        lengths = (len(one.encode()) if metric == "acc_bytes" else len(one) for one in texts)
        scores = [score / max(1, length) for score, length in zip(scores, lengths, strict=True)]
    return len(scores), scores.index(max(scores))
