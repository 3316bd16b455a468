"""Groups of the harness's tasks that a suite may use as one task, such as MMLU.

They are the groups whose score is the mean over all items of their tasks. A group with another
score, such as the mean of its tasks' means, cannot be used as one task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from talr_cli.errors import UserError, reason_of

Index = Mapping[str, Entry]  # of a TaskManager: {name: task, group or tag}

# Keys that define a group. Any other key in its file changes the settings of its tasks.
_STRUCTURE = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


def is_known(index: Index, name: str) -> bool:
    """Whether `name` and all its members are in `index` and may be used as one task."""
    return None not in _members(index, name, is_listed=True)


def members_of(index: Index, name: str) -> list[str]:
    """The tasks that a name in `suite.tasks` stands for: one, or those of a group, in its order.

    Raises:
        UserError: It stands for several tasks whose items do not count equally.
    """
    members = list(_members(index, name, is_listed=True))
    if None in members:
        raise UserError(
            f"suite.tasks: {name} stands for several tasks, and its score is not the mean of all "
            "their items: name each that counts, `lm-eval ls subtasks` lists them"
        )
    return [member for member in members if member is not None]


def _members(index: Index, name: Any, is_listed: bool) -> Iterator[str | None]:
    """The names of the tasks; None for an unknown member, or if items do not count equally."""
    entry = index.get(name) if isinstance(name, str) else None
    if entry is None:
        yield None
    elif entry.kind is Kind.TAG:  # a way to list tasks in a group; it has no score of its own
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


def unreadable_task_files(folder: Path) -> list[str]:
    """Messages about a folder's task files that the harness cannot read and silently skips."""
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        try:
            if not isinstance(load_yaml(file, resolve_func=False), dict):
                raise TypeError("it holds no task")
        except Exception as error:  # of YAML, of the files that it includes, of its own functions
            reason = reason_of(error)
            found.append(f"{file} cannot be read ({reason})")
    return found


def join_records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Join the records of a group's tasks into that of one task, with all of their items.

    Every metric that all of them have becomes the mean over the items. Standard errors are left
    out; they are computed from the items later.
    """
    parts = list(records.values())
    definitions = [[name, one["definition"]] for name, one in records.items()]
    n = sum(part["n"] for part in parts)
    metrics = [
        key
        for key in parts[0]["values"]
        if "_stderr" not in key
        and all(isinstance(part["values"].get(key), int | float) for part in parts)
    ]
    return {
        "definition": hashlib.sha256(repr(definitions).encode()).hexdigest()[:16],
        "version": _common_version([part["version"] for part in parts]),
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


def _common_version(versions: Sequence[Any]) -> Any:
    """The version that all tasks have; if they differ, all versions as text."""
    different = list(dict.fromkeys(versions))
    return different[0] if len(different) == 1 else ", ".join(map(str, different))
