"""The common formats of rows: which columns mean what.

Knows the columns of one row; messages are read by `messages.py`. A column that affects what a model
is told is either used or makes the row an error; any other column is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Message
from talr_cli.data.messages import Conversation, parse_json_column, read_conversation, read_tools

MESSAGES = ("messages", "conversations")
# (column of the question, column of the answer); the first pair that a row has is used.
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
)
_QUESTIONS = tuple(dict.fromkeys(question for question, _ in PAIRS))
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")  # OpenAI's, and its older name of them
# Columns that affect what a model is told: they are used, or the row is refused.
_TOLD = (*MESSAGES, "instruction", "input", *_SYSTEM, "history", *_TOOLS)
# So do these, except in rows with messages or a prompt, which are complete without them.
_BESIDE_A_QUESTION = ("context", "prompt", "completion", "response")
_WRITTEN_OUT = {*MESSAGES, "prompt"}
_UNKNOWN = (
    *("images", "image", "videos", "video", "audios", "audio"),
    *("documents", "chat_template_kwargs"),
)
_OTHER_PAIRS = ", ".join(map(" and ".join, PAIRS[1:]))
WANTED = (
    f"wanted are {' or '.join(MESSAGES)}, or what is asked and what is answered as "
    f"{' and '.join(PAIRS[0])} (or {_OTHER_PAIRS}): rename yours"
)


@dataclass(frozen=True)
class ReadRow:
    """A row as messages and tools; `used` are the columns that they were made of."""

    conversation: Conversation
    tools: tuple[dict[str, Any], ...]
    used: frozenset[str]


def read(values: Mapping[str, Any], train_on: str, columns: Collection[str] = ()) -> ReadRow:
    """Read the conversation of a row.

    Args:
        values: Its columns, without the blank ones.
        train_on: `last` or `all`, see `messages.read_conversation`.
        columns: The names of all of them, for messages.

    Raises:
        ValueError: The row has no known format, or a column that would be ignored.
    """
    listed = next((name for name in MESSAGES if name in values), None)
    if listed is not None:
        used, messages = {listed}, _message_list(listed, values[listed])
    else:
        used, messages = _pair(values, columns)
    if "history" in values:
        if listed is not None:
            raise ValueError(f"has a history beside {listed}")
        messages = [*_earlier_turns(values["history"]), *messages]
        used.add("history")
    system = next((name for name in _SYSTEM if name in values), None)
    if system is not None:
        messages = _add_system(system, values[system], messages)
        used.add(system)
    offered: tuple[dict[str, Any], ...] = ()
    tools = next((name for name in _TOOLS if name in values), None)
    if tools is not None:
        offered = read_tools(values[tools])
        used.add(tools)
    read = read_conversation(messages, train_on)
    decide = (*_TOLD, *_UNKNOWN, *(() if used & _WRITTEN_OUT else _BESIDE_A_QUESTION))
    ignored = [column for column in decide if column in values.keys() - used]
    if ignored:
        raise ValueError(
            f"has {', '.join(ignored)} beside {', '.join(sorted(used))}, which would be ignored"
        )
    return ReadRow(read, offered, frozenset(used))


def _pair(values: Mapping[str, Any], columns: Collection[str]) -> tuple[set[str], list[Any]]:
    """(columns, messages) of a row with a single question and answer."""
    asked = [pair for pair in PAIRS if pair[0] in values]
    empty = [name for name in (*MESSAGES, *_QUESTIONS) if name in columns and name not in values]
    if not asked and empty:
        raise ValueError(f"has nothing in {' and '.join(empty)}")
    if not asked:
        raise ValueError(f"has the columns {', '.join(values) or '(none)'}; {WANTED}")
    question, answer = next((pair for pair in asked if pair[1] in values), asked[0])
    if answer not in values:
        chat = "".join(f", and nothing in {name}" for name in empty if name in MESSAGES)
        wanted = [pair[1] for pair in asked if pair[0] == question]
        others = (
            ""
            if set(wanted) & set(columns)
            else ", ".join(name for name in values if name != question)
        )
        found = f", but {others}" if others else ""
        raise ValueError(f"has no {' or '.join(wanted)}{chat}{found}")
    used = {question, answer}
    asks, answers = _messages_or_none(values[question]), _messages_or_none(values[answer])
    if asks is not None or answers is not None:
        asks = asks or [{"role": "user", "content": _text(values, question)}]
        return used, [
            *asks,
            *(answers or [{"role": "assistant", "content": _text(values, answer)}]),
        ]
    text = _text(values, question)
    if question == "instruction" and "input" in values:
        text = f"{text}\n{_text(values, 'input')}"  # as LLaMA-Factory has it
        used.add("input")
    return used, [
        {"role": "user", "content": text},
        {"role": "assistant", "content": _text(values, answer)},
    ]


def _messages_or_none(given: Any) -> list[Any] | None:
    """The messages in a prompt or a completion, perhaps as JSON; None if it is plain text."""
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
        if not isinstance(given, list) or not all(
            isinstance(one, dict) and {"role", "from"} & one.keys() for one in given
        ):
            return None
    return given if isinstance(given, list) else None


def _text(values: Mapping[str, Any], column: str) -> str:
    if not isinstance(values[column], str):
        kind = type(values[column]).__name__
        raise ValueError(f"has a {column} that is not text but {kind}")
    return values[column]


def _message_list(column: str, given: Any) -> list[Any]:
    """A list of messages, perhaps as JSON."""
    given = parse_json_column(column, given)
    if not isinstance(given, list):
        raise ValueError(f"has {column} that are not a list of objects")
    return given


def _earlier_turns(given: Any) -> list[Message]:
    """Alpaca's earlier turns, [[question, answer], ...]."""
    turns = parse_json_column("history", given)
    if not isinstance(turns, list) or not all(
        isinstance(turn, list | tuple) and len(turn) == 2 for turn in turns
    ):
        raise ValueError("has a history that is not a list of pairs")
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _add_system(column: str, system: Any, messages: list[Any]) -> list[Any]:
    """The messages with a system message; refuses a second, different one."""
    if not isinstance(system, str):
        raise ValueError(f"has a {column} that is not text but {type(system).__name__}")
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role", first.get("from")) not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    if first.get("content", first.get("value")) != system:
        raise ValueError(f"has a {column} beside another system message")
    return messages
