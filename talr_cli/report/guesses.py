"""Among how many answers each item's was chosen, and which one it was, as samples/ of runs have it.

Files of benchmarks are large: of a run only the lines are read of items that it is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from talr_cli.runs.samples import each_sample
from talr_cli.statistics.abilities import Guesses, parts_of
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import Results, is_base, section_of

Choice = tuple[int, Hashable]  # among how many answers, and which one
_DOC_ID = re.compile(rb'\{"doc_id": (\d+)[,}]')


def guesses_of(group: Group, runs: Mapping[Path, Results]) -> Guesses:
    """Of every run of the group against its base model; parts without samples are missing.

    Args:
        runs: The results by run directory.
    """
    own = group.by_path(runs)
    places = [path for path, one in own.items() if one is group.base]
    if group.base is None or not places:
        return Guesses({}, {})
    choices: dict[str, dict[str, int]] = {}
    moved: dict[str, dict[str, frozenset[str]]] = {}
    for part in parts_of(group.base):
        section = section_of(group.base, part) or {}
        base = _chosen(places[0], part, section, section.get("items") or {})
        if not base:
            continue
        choices[part] = {key: among for key, (among, _) in base.items()}
        for path, one in own.items():
            if not is_base(one):
                known = _moved(path, one, part, section, base)
                if known is not None:
                    moved.setdefault(one["run"]["id"], {})[part] = known
    return Guesses(choices, moved)


def _moved(
    path: Path, one: Results, part: str, section: Mapping[str, Any], base: Mapping[str, Choice]
) -> frozenset[str] | None:
    """The items that are wrong both times with another answer; None where that is not known."""
    before, after = section.get("items") or {}, (section_of(one, part) or {}).get("items") or {}
    wrong = {
        key
        for key, (among, _) in base.items()
        if among > 2 and before.get(key) == 0 and after.get(key) == 0
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
    """Of the wanted items; those without a sample, or with a damaged one, are missing."""
    found: dict[str, Choice] = {}

    def is_wanted(line: bytes) -> bool:
        number = _DOC_ID.match(line)
        return number is None or number[1].decode() in wanted

    for sample in each_sample(path / "samples", part, dict, is_wanted):
        key = str(sample.get("id" if part == "domain" else "doc_id"))
        if key in wanted and key not in found:
            with suppress(ValueError, TypeError, LookupError):
                found[key] = _choice(sample, part, section)
    return found


def _choice(sample: Mapping[str, Any], part: str, section: Mapping[str, Any]) -> Choice:
    """Raises ValueError, TypeError or LookupError where it cannot be known."""
    if part == "domain":
        if section.get("answer_by") != "likelihood":
            return 1, None
        return len(sample["log_probabilities"]), str(sample["output"])
    if isinstance(sample["resps"][0][0], str):
        return 1, None
    among, place = likeliest(sample, section)
    return among, place


def likeliest(sample: Mapping[str, Any], section: Mapping[str, Any]) -> tuple[int, int]:
    """Of how many answers that lm-eval weighed, and the place of the one that was scored.

    Args:
        section: Of the task in results.json: its metric says by what answers were compared.

    Raises:
        ValueError, TypeError, LookupError: The sample is damaged.
    """
    responses: Sequence[Any] = sample["resps"]
    answers = [str(one[1]) for one in sample["arguments"]]
    scores = [float(response[0][0]) for response in responses]
    metric = section.get("metric", "").partition(",")[0]
    if any("acc_mutual_info" in each for each in section.get("all", {})):
        # Each answer was scored a second time, without its question.
        among = len(scores) // 2
        answers, scores, alone = answers[:among], scores[:among], scores[among:]
        if metric == "acc_mutual_info":
            scores = [score - other for score, other in zip(scores, alone, strict=True)]
    if metric in ("acc_norm", "acc_bytes"):
        texts = (answer.strip() for answer in answers)
        lengths = (len(one.encode()) if metric == "acc_bytes" else len(one) for one in texts)
        scores = [score / max(1, length) for score, length in zip(scores, lengths, strict=True)]
    return len(scores), scores.index(max(scores))
