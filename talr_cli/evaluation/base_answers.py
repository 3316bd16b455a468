"""Caches the answers of the base model as tokens, so that they are generated only once.

Knows how such a file may be damaged; does not know what the answers are for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from talr_cli.evaluation.decoding import Request
from talr_cli.runs.atomic import read_gzip_json, write_gzip_json
from talr_cli.runs.lease import read_or_make

Tokens = list[tuple[list[int], bool]]  # of each answer its tokens, and whether it was cut off

log = logging.getLogger(__name__)


def cached_answers(
    file: Path, requests: Sequence[Request], generate: Callable[[], Tokens]
) -> Tokens:
    """The answers to `requests` in `file`; if there are none, generates and writes them."""

    def make() -> Tokens:
        answers = generate()
        write_gzip_json(file, answers)
        return answers

    return read_or_make(file, lambda: _read_cached(file, requests), make)


def _read_cached(file: Path, requests: Sequence[Request]) -> Tokens | None:
    value = read_gzip_json(file)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != len(requests)
        or not all(map(_may_answer, value, requests))
    ):
        log.warning("%s does not hold %d answers: it is made again", file, len(requests))
        return None
    return [(tokens, cut) for tokens, cut in value]


def _may_answer(answer: Any, request: Request) -> bool:
    """Whether `answer` is [tokens, whether it was cut off] and may be an answer to `request`."""
    if not isinstance(answer, list) or len(answer) != 2:
        return False
    tokens, cut = answer
    return (
        isinstance(tokens, list)
        and type(cut) is bool
        and len(tokens) <= request.max_new_tokens
        and (len(tokens) > 0 or not cut)
        and all(type(token) is int and token >= 0 for token in tokens)
    )
