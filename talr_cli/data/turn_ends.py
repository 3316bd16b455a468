"""Where turns end in what a chat template has written. Knows texts and special tokens only."""

from __future__ import annotations

import re
from collections.abc import Sequence


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
