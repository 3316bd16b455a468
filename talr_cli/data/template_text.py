"""Compares a row with its text as a chat template writes it, and finds where turns end there.

Knows texts and special tokens as texts; does not know a tokenizer or a template.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from talr_cli.data.base import Example

_LOOKS_SPECIAL = re.compile(r"<[^\s<>]{1,60}>|\[/?[A-Z_]{1,30}\]")


@dataclass(frozen=True)
class RowText:
    """A row's text, and (start, end) of each trained turn with its end token."""

    example: Example
    text: str
    spans: Sequence[tuple[int, int]]

    @cached_property
    def turns(self) -> list[tuple[str, str]]:
        """(prompt, prompt and answer) of each trained turn, from the end of the one before."""
        begins = [0, *(end for _, end in self.spans)]
        return [
            (self.text[begin:start], self.text[begin:end])
            for begin, (start, end) in zip(begins, self.spans, strict=False)
        ]

    @cached_property
    def parts(self) -> list[str]:
        """The texts that have to be tokenized: those of `turns`, and all of them as one."""
        return [*dict.fromkeys([*chain(*self.turns), self.text[: self.spans[-1][1]]])]


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


def find_answer_changes(example: Example, answer: str) -> tuple[str, str]:
    """(the first part of a row's answer that the template drops, the text that it adds to it).

    White space is ignored.

    Args:
        answer: What the template has written for the answer.
    """
    written = without_space(answer)
    reply = example.reply_fields
    parts = [example.completion, reply.get("reasoning_content") or reply.get("thinking") or ""]
    for call in reply.get("tool_calls") or ():
        parts.append(call["function"]["name"])
    for part in parts:
        if without_space(part) not in written:
            return part.strip(), ""
    if reply or written == without_space(example.completion):
        return "", ""
    return "", answer.replace(example.completion.strip(), " ... ").strip()


def find_special_token(example: Example, special_texts: Collection[str]) -> str:
    """The first token in a row's texts that only a template should write."""
    texts = (str(message["content"]) for message in example.conversation)
    found = (token for text in texts for token in _LOOKS_SPECIAL.findall(text))
    return next((token for token in found if token in special_texts), "")


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
