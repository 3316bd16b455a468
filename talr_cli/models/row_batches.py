"""Which rows go through a model together: of like length, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from talr_cli.models.checks import length_switch


def rows_are_apart(model: Any, longest: int) -> bool:
    """Whether no row of at most `longest` tokens changes the positions of others in its batch."""
    switch = length_switch(model.config.to_dict())
    return switch is None or longest <= switch


def batches_of(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Batches of row indices, the longest rows first.

    Args:
        lengths: Tokens of each row.
        most_tokens: Of a batch, padding included; a longer row is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rows = len(batches[-1]) + 1 if batches else most_rows + 1
        if rows > most_rows or rows * lengths[batches[-1][0]] > most_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def batches_for(model: Any, lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """As `batches_of`, with any number of rows, or one where a longer row would change others."""
    together = rows_are_apart(model, max(lengths))
    return batches_of(lengths, len(lengths) if together else 1, most_tokens)
