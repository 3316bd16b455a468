"""The interface of datasets: rows of messages and a completion, in splits, and a scorer.

It knows nothing about tokens, chat templates or files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from talr_cli.scorers.base import Scorer

# It has `role` (system, user, assistant or tool) and `content`, a text. It may have more keys that
# chat templates know: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `thinking`.
Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One supervised row.

    Attributes:
        id: Unique within its split and stable between runs, such as `bmi-17` or `train.jsonl:42`.
        messages: The prompt as chat messages (`role`, `content`); the last one is the user's.
        completion: The text to learn, which is the assistant's answer. It may be empty only if
            `reply_fields` is not.
        reference: What the scorer needs to judge an answer; its keys depend on the scorer.
        group: The name by which scores are broken down, such as the calculator; may be empty.
        category: A coarser such name, such as the kind of calculator; may be empty.
        reply_fields: What the reply has besides its text: `tool_calls`, `reasoning_content`.
        tools: The tools that the assistant may call, in the form that chat templates take.
        turns: Indices into `messages` of the earlier assistant messages to learn, ascending.
    """

    id: str
    messages: tuple[Message, ...]
    completion: str
    reference: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    category: str = ""
    reply_fields: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    turns: tuple[int, ...] = ()

    @property
    def reply(self) -> Message:
        """The message to learn, with all its fields."""
        return {"role": "assistant", "content": self.completion, **self.reply_fields}

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt and the reply."""
        return (*self.messages, self.reply)


@dataclass(frozen=True)
class Splits:
    """The rows of a dataset; `scorer` is None if there is nothing to score."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    scorer: Scorer | None


@runtime_checkable
class Dataset(Protocol):
    """A dataset and its config values; the program only calls `load`."""

    name: str

    def load(self) -> Splits: ...


def content_hash(rows: Iterable[Example]) -> str:
    """A hash of what rows ask and teach, in their order and before a template renders them."""
    found = hashlib.sha256()
    for row in rows:
        content = [row.conversation, row.tools, row.turns]
        found.update(json.dumps(content, sort_keys=True, default=str).encode() + b"\n")
    return found.hexdigest()[:16]


def scored_values(dataset: Dataset, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a dataset's config values on which its test rows and its scorer may depend.

    A dataset names the others, which concern only training, in `unscored`.
    """
    others = getattr(dataset, "unscored", ())
    return {key: one for key, one in values.items() if key not in others}
