"""The formats of rows that people have: which columns mean what.

Knows the columns of one row; messages are read by `messages`. A column that decides what a model is
told is used, or the row is refused by its name; any other is the user's own and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Message
from talr_cli.data.messages import Conversation, conversation, from_json, tools

MESSAGES = ("messages", "conversations")
# What is asked and what is answered; of two that a row has, the first.
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("query", "response"),
    ("question", "answer"),
)
# Columns that decide what a model is told: used, or the row is refused.
_TOLD = (*MESSAGES, "instruction", "input", "system", "history", "tools")
_UNKNOWN = (
    *("images", "image", "videos", "video", "audios", "audio"),
    *("documents", "functions", "chat_template_kwargs"),
)
WANTED = f"wanted are {' or '.join([*MESSAGES, *map(' and '.join, PAIRS)])}"


@dataclass(frozen=True)
class Conversed:
    """A row as messages; `used` are the columns that went into them."""

    conversation: Conversation
    tools: tuple[dict[str, Any], ...]
    used: frozenset[str]


def read(values: Mapping[str, Any], train_on: str) -> Conversed:
    """The conversation of a row.

    Args:
        values: Its columns, without the blank ones.
        train_on: `last` or `all`, see `messages.conversation`.

    Raises:
        ValueError: It is of no format, or holds something that would not be used.
    """
    listed = next((name for name in MESSAGES if name in values), None)
    if listed is not None:
        used, messages = {listed}, _listed(listed, values[listed])
    else:
        used, messages = _pair(values)
    if "history" in values:
        if listed is not None:
            raise ValueError(f"has a history beside {listed}")
        messages = [*_history(values["history"]), *messages]
        used.add("history")
    if "system" in values:
        messages = _with_system(values["system"], messages)
        used.add("system")
    offered: tuple[dict[str, Any], ...] = ()
    if "tools" in values:
        offered = tools(values["tools"])
        used.add("tools")
    read = conversation(messages, train_on)
    ignored = [column for column in (*_TOLD, *_UNKNOWN) if column in values.keys() - used]
    if ignored:
        raise ValueError(
            f"has {', '.join(ignored)} beside {', '.join(sorted(used))}, which would be ignored"
        )
    return Conversed(read, offered, frozenset(used))


def _pair(values: Mapping[str, Any]) -> tuple[set[str], list[Any]]:
    """(columns, messages) of a row that asks and answers once."""
    asked = [pair for pair in PAIRS if pair[0] in values]
    if not asked:
        raise ValueError(f"has the columns {', '.join(values) or '(none)'}; {WANTED}")
    question, answer = next((pair for pair in asked if pair[1] in values), asked[0])
    if answer not in values:
        raise ValueError(f"has no {answer}")
    used = {question, answer}
    if isinstance(values[question], list) or isinstance(values[answer], list):
        parts = [
            _listed(name, value) if isinstance(value, list) else [{"role": role, "content": value}]
            for name, role in ((question, "user"), (answer, "assistant"))
            for value in [values[name]]
        ]
        return used, [*parts[0], *parts[1]]
    text = _text(values, question)
    if question == "instruction" and "input" in values:
        text = f"{text}\n{_text(values, 'input')}"  # as LLaMA-Factory has it
        used.add("input")
    return used, [
        {"role": "user", "content": text},
        {"role": "assistant", "content": _text(values, answer)},
    ]


def _text(values: Mapping[str, Any], column: str) -> str:
    if not isinstance(values[column], str):
        kind = type(values[column]).__name__
        raise ValueError(f"has a {column} that is not text but {kind}")
    return values[column]


def _listed(column: str, given: Any) -> list[Any]:
    """A list of messages, which a CSV file holds as JSON."""
    given = from_json(column, given)
    if not isinstance(given, list):
        raise ValueError(f"has {column} that are not a list of objects")
    return given


def _history(given: Any) -> list[Message]:
    """Alpaca's earlier turns, [[question, answer], ...]."""
    turns = from_json("history", given)
    if not isinstance(turns, list) or not all(
        isinstance(turn, list | tuple) and len(turn) == 2 for turn in turns
    ):
        raise ValueError("has a history that is not a list of pairs")
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _with_system(system: Any, messages: list[Any]) -> list[Any]:
    if not isinstance(system, str):
        raise ValueError(f"has a system that is not text but {type(system).__name__}")
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role", first.get("from")) not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    if first.get("content", first.get("value")) != system:
        raise ValueError("has a system beside another system message")
    return messages
