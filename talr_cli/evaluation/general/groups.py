"""Groups of the harness that count as one task: those whose score is the mean of all their items.

MMLU is 57 tasks and one measure of ability: each of its questions counts once. A group with any
other score, such as the mean of its tasks' means, does not count as one task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from talr_cli.errors import UserError, reason_of

Index = Mapping[str, Entry]  # of a TaskManager: what it knows by name

# Keys that say how a group is made up; any other key of its file changes its tasks.
_STRUCTURE = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


def is_known(index: Index, name: str) -> bool:
    """Whether `name` and all that it stands for are in `index`, and count as one task."""
    return None not in _members(index, name, is_listed=True)


def members_of(index: Index, name: str) -> list[str]:
    """The tasks that a name of `suite.tasks` stands for: itself, or a group's, in its order.

    Raises:
        UserError: It stands for several tasks whose items do not count alike.
    """
    members = list(_members(index, name, is_listed=True))
    if None in members:
        raise UserError(
            f"suite.tasks: {name} stands for several tasks, and its score is not the mean of all "
            "their items: name each that counts, `lm-eval ls subtasks` lists them"
        )
    return [member for member in members if member is not None]


def _members(index: Index, name: Any, is_listed: bool) -> Iterator[str | None]:
    """The tasks' names; None for a member that is not known, and where items do not count alike."""
    entry = index.get(name) if isinstance(name, str) else None
    if entry is None:
        yield None
    elif entry.kind is Kind.TAG:  # within a group a way to list tasks; it has no score itself
        yield from [None] if is_listed else sorted(entry.tags)
    elif entry.kind is not Kind.GROUP:
        yield entry.name
    else:
        settings: dict[str, Any] = entry.cfg or {}
        means = settings.get("aggregate_metric_list") or []
        means = means if isinstance(means, list) else [means]
        alike = all(
            one.get("weight_by_size", True) and one.get("aggregation", "mean") == "mean"
            for one in means
        )
        if not means or not alike or settings.keys() - _STRUCTURE:
            yield None
        for member in settings.get("task") or []:
            yield from _members(index, member, is_listed=False)


def passed_over(folder: Path) -> list[str]:
    """Of a folder's files of tasks those that the harness cannot read, and why: it says nothing."""
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        try:
            if not isinstance(load_yaml(file, resolve_func=False), dict):
                raise TypeError("it holds no task")
        except Exception as error:  # of YAML, of the files that it includes, of its own functions
            reason = reason_of(error)
            found.append(f"{file} cannot be read ({reason})")
    return found


def joined(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The records of a group's tasks as that of one task whose items are all of theirs.

    Every metric that all of them have is the mean over the items; errors are left to whoever
    has the items.
    """
    parts = list(records.values())
    n = sum(part["n"] for part in parts)
    metrics = [
        key
        for key in parts[0]["values"]
        if "_stderr" not in key
        and all(isinstance(part["values"].get(key), int | float) for part in parts)
    ]
    return {
        "definition": _hash([[name, one["definition"]] for name, one in records.items()]),
        "version": _common([part["version"] for part in parts]),
        "n": n,
        "values": {
            key: sum(part["n"] * part["values"][key] for part in parts) / n for key in metrics
        },
        "samples": [
            {**sample, "doc_id": f"{name}/{sample['doc_id']}"}
            for name, one in records.items()
            for sample in one["samples"]
        ],
        "batch_size": min(
            (part["batch_size"] for part in parts if part["batch_size"]), default=None
        ),
        "prompts_cut": sum(part.get("prompts_cut") or 0 for part in parts),
    }


def _common(versions: Sequence[Any]) -> Any:
    """The version that all have; else all that there are, as text."""
    different = list(dict.fromkeys(versions))
    return different[0] if len(different) == 1 else ", ".join(map(str, different))


def _hash(content: Any) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
