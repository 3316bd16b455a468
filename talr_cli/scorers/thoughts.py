"""Separates the answer from the thoughts (reasoning) that a model writes before it.

Knows the marks that models put around thoughts: tags (`<think>`, `<reasoning>`), brackets
(Magistral), bars (OpenThinker, Cohere), channels (gpt-oss, Gemma) and Granite's sentences.
"""

import re
from collections.abc import Iterable

_MARK = re.compile(
    r"(?<!`)(?:(?P<open>"
    r"<(?:[a-z]{1,20}[_:])?(?:think|thinking|thoughts?|reasoning|scratchpad)>|"
    r"\[THINK\]|\u25c1think\u25b7|<\|(?:begin_of_thought|START_THINKING)\|>|"
    r"<\|channel>|<unused94>|\bhere is my thought process:)|"
    r"</(?:[a-z]{1,20}[_:])?(?:think|thinking|thoughts?|reasoning|scratchpad)>|"
    r"\[/THINK\]|\u25c1/think\u25b7|<\|(?:end_of_thought|END_THINKING)\|>|"
    r"<channel\|>|<unused95>|\bhere is my response:)",
    re.IGNORECASE,
)
# What some models put around the answer after a thought.
_AROUND = re.compile(
    r"\s*(?:<\|(?:begin_of_solution|START_RESPONSE)\|>|<(?:response|output)>)"
    r"(.*?)(?:<\|(?:end_of_solution|END_RESPONSE)\|>|</(?:response|output)>|$)\s*",
    re.IGNORECASE | re.DOTALL,
)
_AROUND_TOKENS = {
    *("<|begin_of_solution|>", "<|end_of_solution|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")
}
_AROUND_TOKEN = re.compile("|".join(map(re.escape, sorted(_AROUND_TOKENS))))
_OF_CHANNELS = {"<|channel|>", "<|message|>", "<|start|>", "<|end|>"}
_TAG = re.compile(r"</?\w{1,30}>")
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w*)(?:(?!<\|channel|<\|message).){0,100}<\|message\|>", re.DOTALL
)
_ENDS = re.compile(r"<\|(?:end|return|start)\|>")


def without_thoughts(output: str) -> str:
    """The text after the last thought, or the text before the thoughts if nothing follows them.

    It is empty if the output begins with a thought that never ends. A thought may have been opened
    by the prompt, so that only its end is in the output.
    """
    channels = list(_CHANNEL.finditer(output))
    if channels:
        return _final_channel(output, channels)
    outside: list[str] = []
    opened, read = None, 0
    for mark in _MARK.finditer(output):
        if mark["open"] and opened is None:
            outside.append(output[read : mark.start()])
            opened = mark
        elif not mark["open"]:
            if opened is None:
                outside = []
            opened, read = None, mark.end()
    if opened is None:
        outside.append(output[read:])
    elif outside[-1].rpartition("\n")[2].strip():  # within a line the mark is only mentioned
        outside[-1] = output[read:]
    if len(outside) == 1 and not read and opened is None:
        return _AROUND_TOKEN.sub("", output)  # Cohere's models write them without a thought too
    answer = next((text for text in reversed(outside) if _TAG.sub("", text).strip()), "")
    around = _AROUND.fullmatch(answer)
    return _AROUND_TOKEN.sub("", around[1] if around else answer).strip()


def thought_marks_in(tokens: Iterable[str]) -> set[str]:
    """Those of a tokenizer's special tokens that mark thoughts or answers."""
    found = set(tokens)
    of_channels = _OF_CHANNELS & found if "<|channel|>" in found else set()
    return {one for one in found if _MARK.fullmatch(one)} | (_AROUND_TOKENS & found) | of_channels


def _final_channel(output: str, channels: list[re.Match[str]]) -> str:
    """The text of gpt-oss's last channel, if that is the channel for answers; else ""."""
    last = channels[-1]
    if last[1] != "final":
        return ""
    return _ENDS.split(output[last.end() :], maxsplit=1)[0].strip()
