"""Where parts of a row stand in its text as a chat template writes it.

Knows texts and special tokens as texts; does not know a tokenizer or a template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from talr_cli.data.base import Example


def find_dropped_context(example: Example, text: str) -> str:
    """The first of a row's tools, of the calls before its answer, and texts that `text` lacks.

    What tools answered is not looked for, as templates quote it in many ways, nor what the
    assistant said, of whose earlier thoughts some leave out all.
    """
    messages = example.messages
    calls = [call for one in messages for call in one.get("tool_calls") or ()]
    named = [one.get("function", one).get("name", "") for one in (*example.tools, *calls)]
    said = [one["content"] for one in messages if one["role"] not in ("assistant", "tool")]
    shown = without_space(text)
    return next((part for part in (*named, *said) if without_space(part) not in shown), "")


def end_of_last(tokens: Sequence[str], text: str, start: int) -> int:
    """The position after the last of these tokens in the text; `start` if there is none."""
    ends = [found + len(token) for token in tokens if (found := text.rfind(token, start)) >= start]
    return max(ends, default=start)


def end_of_first_run(tokens: Sequence[str], text: str) -> int:
    """The position after the first of these tokens in the text and any directly behind it."""
    starts = [(found, -len(token)) for token in tokens if (found := text.find(token)) >= 0]
    if not starts:
        return 0
    end = min(starts)[0] - min(starts)[1]
    while following := max((len(one) for one in tokens if text.startswith(one, end)), default=0):
        end += following
    return end


def without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)
