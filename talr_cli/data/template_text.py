"""Compares a row with its text as a chat template writes it, and finds where turns end there.

Knows texts and special tokens as texts; does not know a tokenizer or a template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile

from talr_cli.data.base import Example, Message

_LOOKS_SPECIAL = re.compile(r"<[^\s<>]{1,60}>|\[/?[A-Z_]{1,30}\]")
_MARK_AT_END = re.compile(rf"({_LOOKS_SPECIAL.pattern})\s*\Z")
_LONGEST_MARK = 100  # characters, with the white space behind it


@dataclass(frozen=True)
class RowText:
    """A row's text, (start, end) of each trained turn with its end token, and such tokens."""

    example: Example
    text: str
    spans: Sequence[tuple[int, int]]
    specials: Collection[str] = ()

    @property
    def trained(self) -> tuple[int, ...]:
        """The index of each trained turn in the conversation."""
        return (*self.example.turns, len(self.example.messages))

    @cached_property
    def turns(self) -> list[tuple[str, str, str]]:
        """(token, prompt, prompt and answer) of each trained turn, from the end of the one before.

        The token is that which ends the one before, as tokenizers write a space before some texts
        that begin without one; prompt and answer begin with it.
        """
        found, begin = [], 0
        for start, end in self.spans:
            ends = [one for one in self.specials if self.text.endswith(one, 0, begin)]
            token = max(ends, key=len, default="") if begin else ""
            first, begin = begin - len(token), end
            found.append((token, self.text[first:start], self.text[first:end]))
        return found

    @cached_property
    def parts(self) -> list[str]:
        """The texts that have to be tokenized: those of `turns`, and all of them as one."""
        texts = dict.fromkeys([*chain(*self.turns), self.text[: self.spans[-1][1]]])
        return [text for text in texts if text]


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
    lacking = (part for part in said if without_space(part) not in shown)
    return _named_too_rarely(named, shown) or next(lacking, "")


def find_answer_changes(row: RowText, ending: str, specials: Collection[str]) -> tuple[str, str]:
    """(the first part of the trained answers that the template drops, the first that it adds).

    White space is ignored.

    Args:
        ending: What the template writes behind the last answer; earlier ones may end by any of
            `specials`.
    """
    earlier = len(row.spans) - 1
    lost = added = ""
    for place, (turn, (start, end)) in enumerate(zip(row.trained, row.spans, strict=True)):
        answer = row.text[start:end]
        ends = [ending, *(specials if place < earlier else ())]
        found = max((one for one in ends if answer.endswith(one)), key=len, default="")
        message = row.example.conversation[turn]
        opened = _MARK_AT_END.search(row.text, max(0, start - _LONGEST_MARK), start)
        mark = opened[1] if opened else ""
        dropped, extra = _answer_changes(message, mark, answer.removesuffix(found))
        lost, added = lost or dropped, added or extra
    return lost, added


def _answer_changes(message: Message, mark: str, answer: str) -> tuple[str, str]:
    """As `find_answer_changes`, of one message and what is written for it.

    Args:
        mark: The mark that the prompt ends with, such as `<think>`; an answer that begins with it
            is whole without it.
    """
    written, content = without_space(answer), message["content"]
    if without_space(content) not in written:
        content = content.lstrip().removeprefix(mark)
    thought = message.get("reasoning_content") or message.get("thinking") or ""
    for part in (content, thought):
        if without_space(part) not in written:
            return part.strip(), ""
    calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    if dropped := _named_too_rarely(calls, written):
        return dropped, ""
    if thought or calls or written == without_space(content):
        return "", ""
    return "", answer.replace(content.strip(), " ... ").strip()


def _named_too_rarely(names: Sequence[str], text: str) -> str:
    """The first name that occurs more often among these than in the text; "" if there is none.

    Some templates write the first of several calls only.
    """
    counts = Counter(map(without_space, names))
    return next((name for name, count in counts.items() if text.count(name) < count), "")


def find_special_token(example: Example, special_texts: Collection[str]) -> str:
    """The first token in a row's texts that only a template should write."""
    texts = (str(message["content"]) for message in example.conversation)
    found = (token for text in texts for token in _LOOKS_SPECIAL.findall(text))
    return next((token for token in found if token in special_texts), "")


def end_of_last(tokens: Collection[str], text: str, start: int) -> int:
    """The position after the last of these tokens in the text; `start` if there is none."""
    ends = [found + len(token) for token in tokens if (found := text.rfind(token, start)) >= start]
    return max(ends, default=start)


def turn_end(after: str, tokens: Collection[str], end_token: str) -> str:
    """The part to train on of what a template writes after an answer; "" if no token is in it.

    It ends with the first of these tokens and any directly behind it: Phi-3 writes `<|end|>` and
    then also the end of the text. Generation stops at the tokenizer's own end token, however,
    behind which Cohere's Command A begins a next answer.
    """
    starts = [(found, -len(token)) for token in tokens if (found := after.find(token)) >= 0]
    if not starts:
        return ""
    end = min(starts)[0] - min(starts)[1]
    while following := max((len(one) for one in tokens if after.startswith(one, end)), default=0):
        end += following
    before, found_end, _ = after[:end].partition(end_token)
    return before + found_end


def first_difference(prompt: str, text: str) -> str:
    """Where a text ceases to be like its prompt, as words."""
    same = alike(prompt, text)
    found, wanted = (repr(one[same : same + 30]) for one in (text, prompt))
    return f"the prompt has {wanted} where the answered text has {found}"


def alike(one: str, two: str) -> int:
    """How many characters at the beginning are the same in both texts."""
    pairs = zip(one, two, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)
