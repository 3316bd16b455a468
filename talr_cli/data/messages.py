"""The messages of one conversation, in any of the field's spellings, as chat templates take them.

Knows roles, the keys of a message, tool calls and which messages are trained; does not know columns
or files. What it does not understand it refuses by name: a template would leave it out in silence.
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
    "function_call": "assistant",  # its text is the call, as JSON
}
FLAGS = ("weight", "train", "loss")  # OpenAI's, axolotl's and ms-swift's
_KEPT = ("name", "tool_call_id")
_ASSISTANTS = ("reasoning_content", "thinking", "tool_calls")


@dataclass(frozen=True)
class Conversation:
    """Messages up to the last one that is trained, which is the assistant's.

    Attributes:
        turns: Indices of the trained messages, ascending; the last is that of the last message.
        answers: How many messages of the assistant there are.
        marked: Whether the messages themselves say which of them are trained.
    """

    messages: tuple[Message, ...]
    turns: tuple[int, ...]
    answers: int
    marked: bool = False


def conversation(messages: Sequence[Any], train_on: str) -> Conversation:
    """The conversation of a list of messages, as OpenAI or ShareGPT have them.

    Where a message has a flag, the flags say what is trained, and an answer without one is;
    elsewhere `train_on` does: the `last` of the assistant's messages or `all`.

    Raises:
        ValueError: A message is not understood, or nothing is trained.
    """
    if not all(isinstance(one, dict) for one in messages):
        raise ValueError("has messages that are not objects")
    read = [_message(one) for one in messages]
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
    # What comes after the last trained message cannot change anything.
    kept = tuple(parts[: turns[-1] + 1])
    return Conversation(kept, tuple(turns), len(answers), marked)


def _message(given: dict[str, Any]) -> tuple[Message, bool | None]:
    """(message, whether it says that it is trained)."""
    # A blank text is one all the same: beside a tool call, or what a tool gave back.
    values = {key: value for key, value in given.items() if value is not None}
    said = _either(values, "role", "from")
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise ValueError(f"has a message of the role {said}: know {', '.join(ROLES)}")
    flag = _flag(values, role)
    content = _content(_either(values, "content", "value"))
    message: Message = {"role": role, "content": content}
    if said == "function_call":
        message |= {"content": "", "tool_calls": tool_calls(content)}
    for key in (*_KEPT, *(_ASSISTANTS if role == "assistant" else ())):
        value = values.pop(key, None)
        if not is_blank(value):
            message[key] = tool_calls(value) if key == "tool_calls" else _text(key, value)
    if unknown := ", ".join(key for key, value in values.items() if not is_blank(value)):
        raise ValueError(f"has a message of the {role} with {unknown}, which is not known")
    if not has_text(content) and role != "tool" and not message.keys() & set(_ASSISTANTS):
        raise ValueError(f"has an empty {role} message")
    return message, flag


def _either(values: dict[str, Any], name: str, other: str) -> Any:
    """What a message says under one of two names; it is taken out."""
    found = [values.pop(key) for key in (name, other) if key in values]
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError(f"has a message whose {name} and {other} say different things")
    return found[0] if found else None


def _flag(values: dict[str, Any], role: str) -> bool | None:
    found = {key: values.pop(key) for key in FLAGS if key in values}
    for key, value in found.items():
        if value not in (0, 1):  # nor False or True, which are equal to them
            raise ValueError(f"has a message with {key}={value}: only 0 and 1 are known")
        if value and role != "assistant":
            raise ValueError(f"has a {role} message with {key}={value}: only answers are trained")
    if len(set(map(bool, found.values()))) > 1:
        raise ValueError(f"has a message whose {' and '.join(found)} say different things")
    return bool(next(iter(found.values()))) if found and role == "assistant" else None


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"has a {key} that is not text but {type(value).__name__}")
    return value


def _content(content: Any) -> str:
    """Text, or OpenAI's list of parts; those of text are joined by line ends, as vLLM has it."""
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
    return _text("content", content)


def tool_calls(given: Any) -> list[dict[str, Any]]:
    """Calls as OpenAI has them, but with arguments that are objects.

    OpenAI's are JSON text; templates write them as JSON, and would put that text into quotes.

    Raises:
        ValueError: They are not understood.
    """
    given = from_json("tool_calls", given)
    calls = []
    for call in given if isinstance(given, list) else [given]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("has a tool call without a name")
        arguments = from_json("arguments", function.get("arguments") or {})
        if not isinstance(arguments, dict):
            raise ValueError("has a tool call whose arguments are not an object")
        known = {"id": call["id"]} if call.get("id") else {}
        named = {"name": function["name"], "arguments": arguments}
        calls.append({"type": "function", **known, "function": named})
    return calls


def tools(given: Any) -> tuple[dict[str, Any], ...]:
    """Descriptions of functions as OpenAI has them, each with its type around it.

    Raises:
        ValueError: They are not a list of such.
    """
    given = from_json("tools", given)
    if not isinstance(given, list):
        raise ValueError("has tools that are not a list")
    found = []
    for tool in given:
        tool = from_json("tools", tool)
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("has a tool without a name")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(found)


def from_json(column: str, given: Any) -> Any:
    """A list or an object, which a CSV file or a string column holds as JSON.

    Raises:
        ValueError: It is text and not JSON, or JSON with half a character.
    """
    if not isinstance(given, str):
        return given
    try:
        read = json.loads(given)
        json.dumps(read, ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError):
        raise ValueError(f"has {column} that are not JSON") from None
    return read
