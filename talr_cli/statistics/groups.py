"""Which runs may be compared, and why others may not.

The runs of a group have the same model, dataset and base model, and were asked the same questions.
Base models and questions are compared by content, as two models may share a name, and so may two
datasets. Code that compares runs gets its groups from `comparable`. Knows results only.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talr_cli.printable import printable
from talr_cli.runs.run_directory import pair_name
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    RunsByPath,
    averaging_alpha,
    is_base,
    measured_alike,
    mismatch,
    name_of,
    rows_of,
    share_trained,
    short_hash,
)
from talr_cli.statistics.seeds import ambiguous_lines

# The kinds of drift that are measured on prompts of the suite and of the domain.
_OVER_PROMPTS = ("kl_from_base", "domain_kl_from_base")
_LONGEST_NAME = 200  # characters of a model and a dataset in a file's name, of 255 in all


@dataclass(frozen=True)
class Group:
    """Runs whose scores can be compared, and runs of the same names whose scores cannot.

    Attributes:
        model, dataset: Names for people. If several models or datasets share a name, a hash or what
            differs follows in brackets.
        file_name: The last part of the names of the group's figures.
        runs: The base model first, then by method, lr and seed. A part that two runs have was
            measured in the same way.
        left_out: Runs that were measured in another way, each with the reason.
        note: Why there is no base model although another model of this name has one; else empty.
    """

    model: str
    dataset: str
    file_name: str
    runs: list[Results]
    left_out: list[tuple[Results, str]]
    note: str = ""

    @property
    def title(self) -> str:
        """The group's name, which is unique in the study."""
        return f"{self.model} on {self.dataset}"

    @property
    def base(self) -> Results | None:
        """The results of the base model; None if it was not scored."""
        return next((one for one in self.runs if is_base(one)), None)

    @property
    def fingerprint(self) -> str:
        """The hash of the base model's weights, whether it was scored or not."""
        return self.runs[0]["run"]["base"]

    def has(self, results: Results) -> bool:
        """Whether this run is in the group, perhaps left out."""
        return any(one is results for one in [*self.runs, *(one for one, _ in self.left_out)])

    def by_path(self, runs: RunsByPath) -> dict[Path, Results]:
        """{run directory: results} of the group, in its order."""
        paths = {id(results): path for path, results in runs.items()}
        return {paths[id(one)]: one for one in self.runs}

    def left_out_of(self, runs: RunsByPath) -> dict[Path, str]:
        """{run directory: reason} of the runs that are left out; `runs` is that of the study."""
        paths = {id(results): path for path, results in runs.items()}
        return {paths[id(one)]: reason for one, reason in self.left_out}


def comparable(results: Iterable[Results]) -> list[Group]:
    """The groups of these runs, sorted by name; every run is in exactly one of them."""
    same_names: dict[tuple[str, ...], list[Results]] = {}
    for one in sorted(results, key=_order):
        run = one["run"]
        same_names.setdefault((run["model"], run["dataset"], run["base"]), []).append(one)
    return _named([group for runs in same_names.values() for group in _measured_alike(runs)])


def left_out_lines(groups: Sequence[Group]) -> list[str]:
    """Lines that say what is not compared, and why.

    These are missing base models, runs that were measured in another way, methods at a rate whose
    runs are of several settings, runs that were trained on other rows than they seem, and drifts
    that were measured on other prompts.
    """
    lines = []
    for group in groups:
        if group.note:
            lines.append(f"left out: changes of {group.title}: {group.note}")
        lines += [f"left out: {name_of(one)}: {printable(why)}" for one, why in group.left_out]
        lines += [
            f"left out of the comparison of methods: {printable(why)}"
            for why in ambiguous_lines(group.runs)
        ]
        lines += _rows_lines(group)
        lines += _drift_lines(group)
    return lines


def _rows_lines(group: Group) -> Iterator[str]:
    """A line for each run that was trained on other rows than most runs that asked for the same."""
    by_asked: dict[str, dict[str, str]] = {}
    for one in group.runs:
        asked, got = rows_of(one)
        if asked is not None and got is not None:
            by_asked.setdefault(asked, {})[name_of(one)] = got
    for rows in by_asked.values():
        yield from (
            f"not comparable: {name} was trained on other rows than most runs ({short_hash(own)} "
            f"and {short_hash(usual)}): the data set has changed; dataset.revision=COMMIT keeps it"
            for name, own, usual in _unlike_most(rows)
        )


def _drift_lines(group: Group) -> Iterator[str]:
    """A line for each run whose drift was measured on other prompts than that of most runs."""
    for key in _OVER_PROMPTS:
        measured = {}
        for one in group.runs:
            section = (one["drift"] or {}).get(key) or {}
            if "tokens" in section:
                measured[name_of(one)] = f"{section['tokens']} tokens of {section['n']} prompts"
        yield from (
            f"not comparable: {key} of {name} is over {own}, that of most runs over {usual}; to "
            "score it again, repeat the command that made it (`talr show RUN`)"
            for name, own, usual in _unlike_most(measured)
        )


def _unlike_most(values: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, its value, that of most) for each whose value is not that of most."""
    for usual, _ in Counter(values.values()).most_common(1):
        yield from ((name, own, usual) for name, own in values.items() if own != usual)


def _measured_alike(runs: Sequence[Results]) -> list[Group]:
    """Groups of runs with the same names and base model, by how they were measured.

    Each way in which the base model was measured makes a group. If the base model was not scored,
    the group is measured in the way of most runs.
    """
    bases: list[Results] = []
    for one in runs:
        known = (_group_mismatch(dict.fromkeys(PARTS, base), one) is None for base in bases)
        if is_base(one) and not any(known):
            bases.append(one)
    references = [_reference(runs, base) for base in bases] or [_reference(runs, None)]
    members: list[list[Results]] = [[] for _ in references]
    left_out: list[list[tuple[Results, str]]] = [[] for _ in references]
    for one in runs:
        reasons = [_group_mismatch(reference, one) for reference in references]
        if None in reasons:
            members[reasons.index(None)].append(one)
        else:
            left_out[0].append((one, reasons[0] or ""))
    run = runs[0]["run"]
    return [
        Group(run["model"], run["dataset"], "", own, other)
        for own, other in zip(members, left_out, strict=True)
    ]


def _reference(runs: Sequence[Results], base: Results | None) -> dict[str, Results]:
    """{part: the run of the group that others are compared with}."""
    reference: dict[str, Results] = {part: base for part in PARTS if base and base[part]}
    for part in PARTS:
        if part not in reference:
            alike = [one for one in runs if _group_mismatch(reference, one) is None]
            usual = _most_common(alike, part)
            if usual is not None:
                reference[part] = usual
    return reference


def _group_mismatch(reference: Mapping[str, Results], one: Results) -> str | None:
    """Why a run does not belong to the group of `reference`; parts that it lacks do not count."""
    for part, other in reference.items():
        if one[part] and other[part]:
            reason = mismatch(other, one, part)
            if reason is not None:
                return reason
    return None


def _most_common(runs: Sequence[Results], part: str) -> Results | None:
    """The first run whose part was measured as in most runs; None if no run has it."""
    kinds: list[list[Results]] = []
    for one in runs:
        if one[part]:
            same = (kind for kind in kinds if measured_alike(kind[0], one, part))
            if (kind := next(same, None)) is None:
                kinds.append(kind := [])
            kind.append(one)
    return max(kinds, key=len)[0] if kinds else None


def _named(groups: Sequence[Group]) -> list[Group]:
    """The groups with distinct names."""
    bases: dict[str, set[str]] = {}
    for group in groups:
        bases.setdefault(group.model, set()).add(group.fingerprint)
    named, taken = [], Counter[str]()
    for group in groups:
        names = group.model, group.dataset
        namesakes = [one for one in groups if (one.model, one.dataset) == names]
        twins = [one for one in namesakes if one.fingerprint == group.fingerprint]
        known = short_hash(group.fingerprint) if len(bases[group.model]) > 1 else ""
        asked = _what_differs(group, twins) if len(twins) > 1 else ""
        pair = pair_name(group.model, group.dataset)[:_LONGEST_NAME]
        file_name = "-".join(filter(None, [pair, known]))
        taken[file_name] += 1
        if taken[file_name] > 1:
            file_name += f"-{taken[file_name]}"
        others = sorted({short_hash(one.fingerprint) for one in namesakes if one.base is not None})
        note = ""
        if group.base is None and others:
            note = (
                f"its base ({short_hash(group.fingerprint)}) was not scored; the one that was is "
                f"another model ({', '.join(others)})"
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
    """How a group was measured differently from its twins, which have the same names and base."""
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
