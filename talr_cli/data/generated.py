"""What the generated data sets share: kinds of rows that take turns, each row once.

Knows streams of rows; does not know what they are rows of.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from talr_cli.errors import UserError

T = TypeVar("T")


def each_once(
    make: Callable[[random.Random], T],
    key: Callable[[T], str],
    belongs: Callable[[str], bool],
    seed: str,
    most_draws: int,
) -> Iterator[T]:
    """What `make` draws, each once, of those that belong to the split.

    All splits draw the same, in the same order; which of it is theirs follows from the key alone,
    so that no split depends on the size of another.

    Args:
        key: What no two of them, and no two splits, may share.
        belongs: Whether what has this key belongs to the split.
        seed: Of the draws.
        most_draws: After so many the stream ends.
    """
    draw = random.Random(seed)
    seen = set()
    for _ in range(most_draws):
        made = make(draw)
        name = key(made)
        if name in seen:
            continue
        seen.add(name)
        if belongs(name):
            yield made


def in_turns(
    streams: Sequence[tuple[str, Iterator[T]]], option: str, count: int, things: str
) -> Iterator[tuple[str, int, T]]:
    """`count` times (name, number within its stream, what it gave), the streams taking turns.

    Args:
        streams: (name, stream) of each kind.
        option: Name of the count in the config.
        things: What the streams are of, for the error.

    Raises:
        UserError: The count is negative, or a stream ends before its last turn.
    """
    if count < 0:
        raise UserError(f"dataset.{option}={count} is negative")
    for number in range(count):
        index, place = divmod(number, len(streams))
        name, stream = streams[place]
        for given in stream:
            yield name, index, given
            break
        else:
            raise UserError(
                f"dataset.{option}={count} is more than there are: {name} has {index} {things} "
                f"for this split; ask for at most {index * len(streams)}"
            )
