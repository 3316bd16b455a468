"""What the generated datasets share: streams of distinct rows that alternate.

Knows streams of rows; does not know what the rows are.
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
    """Distinct objects that `make` draws, of those that belong to the split.

    All splits draw the same objects in the same order. Which ones belong to a split follows from
    the key alone, so that no split depends on the size of another.

    Args:
        key: The key of an object, which no two objects and no two splits share.
        belongs: Whether an object with this key belongs to the split.
        seed: The seed of the draws.
        most_draws: The stream ends after so many draws.
    """
    draw = random.Random(seed)
    seen = set()
    for _ in range(most_draws):
        made = make(draw)
        name = key(made)
        if name not in seen and belongs(name):
            seen.add(name)
            yield made


def in_turns(
    streams: Sequence[tuple[str, Iterator[T]]], option: str, count: int, things: str
) -> Iterator[tuple[str, int, T]]:
    """`count` times (name of the stream, number within it, its next object), alternating.

    Args:
        streams: (name, stream) of each kind.
        option: The name of the count in the config, for the error.
        things: What the objects are called in the error.

    Raises:
        UserError: A stream ends too early.
    """
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
