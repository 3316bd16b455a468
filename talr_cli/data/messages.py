"""Converts the messages of a conversation, in any common format, to what chat templates take.

Knows roles, the keys of a message, tool calls and which messages are trained on; does not know
columns or files. It refuses what it does not understand, since a template would silently ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Message
from talr_cli.data.rows import has_text, is_blank

# OpenAI's roles, then those of ShareGPT files.
ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name of it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "function": "tool",  # OpenAI's older name of it
    "tool_response": "tool",  # ms-swift's
    "tool_call": "assistant",
}
_CALLS = ("function_call", "tool_call")  # roles whose text is a call as JSON
FLAGS = ("weight", "train", "loss")  # OpenAI's, axolotl's and ms-swift's
_KEPT = ("name", "tool_call_id")
_ASSISTANTS = ("reasoning_content", "thinking", "tool_calls")
_OLDER_CALL = "function_call"  # OpenAI's key of a single call, before there were tool_calls


@dataclass(frozen=True)
class Conversation:
    """The messages up to the last one that is trained on, which is the assistant's.

    Attributes:
        turns: Indices of the messages to train on, ascending; the last is that of the last message.
        answers: The number of assistant messages.
        marked: Whether the messages themselves say which of them to train on.
    """

    messages: tuple[Message, ...]
    turns: tuple[int, ...]
    answers: int
    marked: bool = False


def read_conversation(messages: Sequence[Any], train_on: str) -> Conversation:
    """Read a conversation from messages in the format of OpenAI or ShareGPT.

    If any message has a flag (see FLAGS), the flags decide which answers are trained on, and
    answers without a flag are. Otherwise `train_on` decides: the `last` answer or `all` of them.

    Raises:
        ValueError: A message is not understood, or there is nothing to train on.
    """
    if not all(isinstance(one, dict) for one in messages):
        raise ValueError("has messages that are not objects")
    read = [_read_message(one) for one in messages]
    parts, flags = [part for part, _ in read], [flag for _, flag in read]
    if len(parts) < 2 or parts[-1]["role"] != "assistant":
        raise ValueError("has messages that do not end with the assistant's answer to a prompt")
    answers = [index for index, part in enumerate(parts) if part["role"] == "assistant"]
    marked = any(flag is not None for flag in flags)
    if marked:
        turns = [index for index in answers if flags[index] is not False]
    else:
        turns = answers if train_on == "all" else answers[-1:]
    if turns[:1] == [0]:
        if marked:
            raise ValueError("trains its first message, which answers nothing")
        turns = turns[1:]  # a greeting
    if not turns:
        raise ValueError("has no message of the assistant that is to be trained")
    # Messages after the last trained one have no effect.
    kept = tuple(parts[: turns[-1] + 1])
    return Conversation(kept, tuple(turns), len(answers), marked)


def _read_message(given: dict[str, Any]) -> tuple[Message, bool | None]:
    """(message, its flag about training or None)."""
    # A blank text is kept, as it may come with a tool call or be the result of a tool.
    values = {key: value for key, value in given.items() if value is not None}
    said = _pop_either(values, "role", "from")
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise ValueError(f"has a message of the role {said}: know {', '.join(ROLES)}")
    flag = _pop_flag(values, role)
    content = _read_content(_pop_either(values, "content", "value"))
    message: Message = {"role": role, "content": content}
    if said in _CALLS:
        message |= {"content": "", "tool_calls": read_tool_calls(content)}
    if role == "assistant" and _OLDER_CALL in values and is_blank(values.get("tool_calls")):
        values["tool_calls"] = values.pop(_OLDER_CALL)
    for key in (*_KEPT, *(_ASSISTANTS if role == "assistant" else ())):
        value = values.pop(key, None)
        if not is_blank(value):
            message[key] = (
                read_tool_calls(value) if key == "tool_calls" else _require_text(key, value)
            )
    if unknown := ", ".join(key for key, value in values.items() if not is_blank(value)):
        raise ValueError(f"has a message of the {role} with {unknown}, which is not known")
    if not has_text(content) and role != "tool" and not message.keys() & set(_ASSISTANTS):
        raise ValueError(f"has an empty {role} message")
    return message, flag


def _pop_either(values: dict[str, Any], name: str, other: str) -> Any:
    """Remove and return what a message has under one of two names."""
    found = [values.pop(key) for key in (name, other) if key in values]
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError(f"has a message whose {name} and {other} say different things")
    return found[0] if found else None


def _pop_flag(values: dict[str, Any], role: str) -> bool | None:
    """Remove the flags; returns whether to train on the message, or None if nothing says so."""
    found = {key: values.pop(key) for key in FLAGS if key in values}
    for key, value in found.items():
        if value not in (0, 1):  # nor False or True, which are equal to them
            raise ValueError(f"has a message with {key}={value}: only 0 and 1 are known")
        if value and role != "assistant":
            raise ValueError(f"has a {role} message with {key}={value}: only answers are trained")
    if len(set(map(bool, found.values()))) > 1:
        raise ValueError(f"has a message whose {' and '.join(found)} say different things")
    return bool(next(iter(found.values()))) if found and role == "assistant" else None


def _require_text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"has a {key} that is not text but {type(value).__name__}")
    return value


def _read_content(content: Any) -> str:
    """The text of a message, or of OpenAI's list of text parts, joined by newlines as in vLLM."""
    if content is None:
        return ""
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            text = part.get("text") if kind == "text" else None
            if not isinstance(text, str):
                raise ValueError(f"has a message with a part of the kind {kind}, not text")
            texts.append(text)
        return "\n".join(texts)
    return _require_text("content", content)


def read_tool_calls(given: Any) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's format, but with arguments that are objects.

    OpenAI's arguments are JSON text. Templates write arguments as JSON, and would put a text into
    quotes.

    Raises:
        ValueError: A call is not understood.
    """
    given = parse_json_column("tool_calls", given)
    calls = []
    for call in given if isinstance(given, list) else [given]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("has a tool call without a name")
        arguments = parse_json_column("arguments", function.get("arguments") or {})
        if not isinstance(arguments, dict):
            raise ValueError("has a tool call whose arguments are not an object")
        known = {"id": call["id"]} if call.get("id") else {}
        named = {"name": function["name"], "arguments": arguments}
        calls.append({"type": "function", **known, "function": named})
    return calls


def read_tools(given: Any) -> tuple[dict[str, Any], ...]:
    """Tools in OpenAI's format, {"type": "function", "function": its description}.

    Raises:
        ValueError: They are not a list of functions.
    """
    given = parse_json_column("tools", given)
    if not isinstance(given, list):
        raise ValueError("has tools that are not a list")
    found = []
    for tool in given:
        tool = parse_json_column("tools", tool)
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("has a tool without a name")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(found)


def parse_json_column(column: str, given: Any) -> Any:
    """A list or an object, parsed if it is JSON text (as in a CSV file or a string column).

    Raises:
        ValueError: It is text but not JSON, or JSON with half a character (a lone surrogate).
    """
    if not isinstance(given, str):
        return given
    try:
        read = json.loads(given)
        json.dumps(read, ensure_ascii=False).encode()  # fails on half a character
    except (ValueError, RecursionError):
        raise ValueError(f"has {column} that are not JSON") from None
    return read
