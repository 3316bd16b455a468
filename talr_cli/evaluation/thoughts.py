"""What of an output is the answer, where a model thinks aloud before it."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def without_thoughts(output: str) -> str:
    """The part behind the last `</think>`; nothing where a thought is never closed.

    The thought may have been opened by the prompt, so that only its end is in the output.
    """
    _, closed, answer = output.rpartition(CLOSE)
    answer = answer.strip() if closed else output
    return "" if answer.lstrip().startswith(OPEN) else answer
