"""Like is compared with like: which runs may be compared, and why others may not.

The runs of a group have one model, one dataset and one base model, and were asked the same, by
content: two models may share a name, and so may two datasets. Whoever reads several runs asks
`comparable` for their groups. Knows results only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talr_cli.printable import printable
from talr_cli.runs.run_directory import pair_name
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    averaging_alpha,
    is_base,
    measured_alike,
    name_of,
    share_trained,
    short,
    unlike,
)
from talr_cli.statistics.seeds import ambiguous_lines

# Of drift, what is taken over prompts of the suite and of the domain.
_OVER_PROMPTS = ("kl_from_base", "domain_kl_from_base")


@dataclass(frozen=True)
class Group:
    """Runs whose scores can be compared, and runs of the same names whose scores cannot.

    Attributes:
        model, dataset: Names for people; where a name stands for several, with a hash or what
            differs, in brackets.
        file_name: The end of the names of the group's pictures.
        runs: The base model first, then by method, lr and seed. A part that two of them have was
            measured alike.
        left_out: Runs that were measured otherwise, each with the reason.
        note: Why there is no base model, where another model of this name has one; else empty.
    """

    model: str
    dataset: str
    file_name: str
    runs: list[Results]
    left_out: list[tuple[Results, str]]
    note: str = ""

    @property
    def title(self) -> str:
        """What the group is called; no other group of the study has the same title."""
        return f"{self.model} on {self.dataset}"

    @property
    def base(self) -> Results | None:
        """The base model; None where it was not scored."""
        return next((one for one in self.runs if is_base(one)), None)

    @property
    def fingerprint(self) -> str:
        """The hash of the base model's weights, whether it was scored or not."""
        return self.runs[0]["run"]["base"]

    def by_path(self, runs: Mapping[Path, Results]) -> dict[Path, Results]:
        """{run directory: results} of the group, in its order.

        Args:
            runs: The results of the study by run directory.
        """
        places = {id(results): path for path, results in runs.items()}
        return {places[id(one)]: one for one in self.runs}

    def left_out_of(self, runs: Mapping[Path, Results]) -> dict[Path, str]:
        """{run directory: reason} of the runs that are left out; `runs` is that of the study."""
        places = {id(results): path for path, results in runs.items()}
        return {places[id(one)]: reason for one, reason in self.left_out}


def comparable(results: Iterable[Results]) -> list[Group]:
    """The groups of these runs, in the order of their names; every run is in one of them."""
    same_names: dict[tuple[str, ...], list[Results]] = {}
    for one in sorted(results, key=_order):
        run = one["run"]
        same_names.setdefault((run["model"], run["dataset"], run["base"]), []).append(one)
    return _named([group for runs in same_names.values() for group in _measured_alike(runs)])


def left_out_lines(groups: Sequence[Group]) -> list[str]:
    """What is not compared, and why, in lines.

    These are base models that are missing, runs that were measured otherwise, and methods at a
    rate whose runs are of several settings, and drifts that were taken over other prompts.
    """
    lines = []
    for group in groups:
        if group.note:
            lines.append(f"left out: changes of {group.title}: {group.note}")
        lines += [f"left out: {name_of(one)}: {printable(why)}" for one, why in group.left_out]
        lines += [
            f"left out where methods are compared: {printable(why)}"
            for why in ambiguous_lines(group.runs)
        ]
        lines += _drift_lines(group)
    return lines


def _drift_lines(group: Group) -> Iterator[str]:
    """A line for each run whose drift was taken over other prompts than that of most."""
    for key in _OVER_PROMPTS:
        over = {}
        for one in group.runs:
            section = (one["drift"] or {}).get(key) or {}
            if "tokens" in section:
                over[name_of(one)] = f"{section['tokens']} tokens of {section['n']} prompts"
        ((of_most, _),) = Counter(over.values()).most_common(1) or [("", 0)]
        yield from (
            f"not to be compared: {key} of {name} is over {own}, that of most over {of_most}; to "
            "score again: the command that made it (`talr show RUN`)"
            for name, own in over.items()
            if own != of_most
        )


def _measured_alike(runs: Sequence[Results]) -> list[Group]:
    """Groups of runs of the same names and base model, by what they were asked.

    Every score of the base model that was asked otherwise makes a group of its own. Without one
    the group is what most of the runs were asked.
    """
    bases: list[Results] = []
    for one in runs:
        known = (_conflict(dict.fromkeys(PARTS, base), one) is None for base in bases)
        if is_base(one) and not any(known):
            bases.append(one)
    references = [_reference(runs, base) for base in bases] or [_reference(runs, None)]
    members: list[list[Results]] = [[] for _ in references]
    left_out: list[list[tuple[Results, str]]] = [[] for _ in references]
    for one in runs:
        conflicts = [_conflict(reference, one) for reference in references]
        if None in conflicts:
            members[conflicts.index(None)].append(one)
        else:
            left_out[0].append((one, conflicts[0] or ""))
    run = runs[0]["run"]
    return [
        Group(run["model"], run["dataset"], "", own, other)
        for own, other in zip(members, left_out, strict=True)
    ]


def _reference(runs: Sequence[Results], base: Results | None) -> dict[str, Results]:
    """{part: a run of the group; the others have to have been asked the same}."""
    reference: dict[str, Results] = {part: base for part in PARTS if base and base[part]}
    for part in PARTS:
        if part not in reference:
            usual = _most_common([one for one in runs if _conflict(reference, one) is None], part)
            if usual is not None:
                reference[part] = usual
    return reference


def _conflict(reference: Mapping[str, Results], one: Results) -> str | None:
    """Why a run does not belong to the group of `reference`; a part it lacks is no reason."""
    for part, other in reference.items():
        if one[part] and other[part]:
            reason = unlike(other, one, part)
            if reason is not None:
                return reason
    return None


def _most_common(runs: Sequence[Results], part: str) -> Results | None:
    """The first run whose part was measured as that of most runs; None where no run has it."""
    kinds: list[list[Results]] = []
    for one in runs:
        if one[part]:
            home = next((kind for kind in kinds if measured_alike(kind[0], one, part)), None)
            if home is None:
                kinds.append([one])
            else:
                home.append(one)
    return max(kinds, key=len)[0] if kinds else None


def _named(groups: Sequence[Group]) -> list[Group]:
    """The groups with names that tell them apart."""
    bases: dict[str, set[str]] = {}
    for group in groups:
        bases.setdefault(group.model, set()).add(group.fingerprint)
    named, taken = [], Counter[str]()
    for group in groups:
        names = group.model, group.dataset
        namesakes = [one for one in groups if (one.model, one.dataset) == names]
        twins = [one for one in namesakes if one.fingerprint == group.fingerprint]
        known = short(group.fingerprint) if len(bases[group.model]) > 1 else ""
        asked = _what_differs(group, twins) if len(twins) > 1 else ""
        file_name = "-".join(filter(None, [pair_name(group.model, group.dataset), known]))
        taken[file_name] += 1
        if taken[file_name] > 1:
            file_name += f"-{taken[file_name]}"
        others = sorted({short(one.fingerprint) for one in namesakes if one.base is not None})
        note = ""
        if group.base is None and others:
            note = (
                f"its base ({short(group.fingerprint)}) was not scored; what was is another model "
                f"({', '.join(others)})"
            )
        named.append(
            replace(
                group,
                model=printable(group.model) + (f" ({known})" if known else ""),
                dataset=printable(group.dataset) + (f" ({asked})" if asked else ""),
                file_name=file_name,
                note=note,
            )
        )
    return named


def _what_differs(group: Group, twins: Sequence[Group]) -> str:
    """In what a group was asked otherwise than its twins, which have the same names and base."""
    for part, key, word in (
        ("domain", "items_hash", "items"),
        ("general", "suite", "suite"),
        ("general", "limit", "limit"),
    ):
        values = [_asked(one, part, key) for one in twins]
        if len({*values}) == len(twins):
            return f"{word} {_asked(group, part, key)}"
    return f"{[id(one) for one in twins].index(id(group)) + 1} of {len(twins)}"


def _asked(group: Group, part: str, key: str) -> str:
    section = next((one[part] for one in group.runs if one[part]), None)
    return printable(str((section or {}).get(key)))[:16]


def _order(results: Results) -> tuple:
    run = results["run"]
    return (
        run["model"],
        run["dataset"],
        run["base"],
        not is_base(results),
        run["method"],
        averaging_alpha(results) or 0.0,
        run["lr"] or 0.0,
        run["seed"] or 0,
        share_trained(results),
        run["id"],
    )
