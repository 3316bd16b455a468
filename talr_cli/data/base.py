"""What a dataset is to the rest of the program: rows of (messages, completion) and a scorer.

This module knows nothing about tokens, templates or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from talr_cli.errors import UserError
from talr_cli.scorers.base import Scorer

# `role` (system, user, assistant, tool) and `content`, which is text. Where a row has them also
# what chat templates know: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `thinking`.
Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One supervised row.

    Attributes:
        id: Unique within its dataset and stable between runs, e.g. `bmi-17` or `train.jsonl:42`.
        messages: The prompt as chat messages (`role`, `content`); the last one is the user's.
        completion: The text to be learned: what the assistant should answer. Empty only where
            `reply_fields` has something.
        reference: What the scorer needs to judge an answer; its keys belong to that scorer.
        group: The name under which scores are broken down, e.g. the calculator; may be empty.
        category: A coarser name for the same, e.g. the kind of calculator; may be empty.
        reply_fields: What the reply has beside its text: `tool_calls`, `reasoning_content`.
        tools: What the assistant may call, as the chat template takes them.
        turns: Indices into `messages` of the assistant's messages that are learned too, ascending.
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
        """The message to be learned, with all that it has."""
        return {"role": "assistant", "content": self.completion, **self.reply_fields}

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt and the reply."""
        return (*self.messages, self.reply)


@dataclass(frozen=True)
class Splits:
    """The rows of a dataset. `scorer` is None when there is nothing to score."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    scorer: Scorer | None


@runtime_checkable
class Dataset(Protocol):
    """A dataset config; `load` is the only thing the program asks of it."""

    name: str

    def load(self) -> Splits: ...


def scored_values(dataset: Dataset, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a dataset's values those that its test rows and its scorer may depend on.

    A dataset names the others, which concern what is trained alone, in `unscored`.
    """
    others = getattr(dataset, "unscored", ())
    return {key: one for key, one in values.items() if key not in others}


def check_target(target: str) -> None:
    """Raise UserError unless `target`, what a completion holds, is an explanation or a label."""
    if target not in ("explanation", "label"):
        raise UserError(f"dataset.target={target} is not explanation or label")
