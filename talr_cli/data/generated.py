"""What the generated data sets share: their kinds of rows take turns.

Knows streams of rows; does not know what they are rows of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from talr_cli.errors import UserError

T = TypeVar("T")


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
