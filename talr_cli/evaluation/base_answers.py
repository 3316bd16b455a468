"""Answers of a model that are made once and kept in a file, as tokens.

Knows what was asked and how such a file may be damaged; does not know what the answers are for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from talr_cli.evaluation.generation import Request
from talr_cli.runs.atomic import read_packed, write_packed
from talr_cli.runs.lease import hold

Tokens = list[tuple[list[int], bool]]  # the tokens of each answer, and whether it was cut

log = logging.getLogger(__name__)


def kept_answers(file: Path, asked: Sequence[Request], make: Callable[[], Tokens]) -> Tokens:
    """The answers in `file`; where it has none, those that `make` makes, which are written there.

    Processes that ask for the same file wait for the first of them.
    """
    found = _found(file, asked)
    if found is not None:
        return found
    with hold(file.with_suffix(".lock"), wait=True):
        found = _found(file, asked)
        if found is None:
            found = make()
            write_packed(file, found)
    return found


def _found(file: Path, asked: Sequence[Request]) -> Tokens | None:
    value = read_packed(file)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(asked) or not all(map(_fits, value, asked)):
        log.warning("%s does not hold %d answers: it is made again", file, len(asked))
        return None
    return [(tokens, cut) for tokens, cut in value]


def _fits(one: Any, request: Request) -> bool:
    """Whether `one` is [tokens, whether they were cut], as `request` could be answered."""
    if not isinstance(one, list) or len(one) != 2:
        return False
    tokens, cut = one
    return (
        isinstance(tokens, list)
        and type(cut) is bool
        and len(tokens) <= request.max_new_tokens
        and (len(tokens) > 0 or not cut)
        and all(type(token) is int and token >= 0 for token in tokens)
    )
