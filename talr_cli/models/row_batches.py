"""Divides rows into batches of similar lengths, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from talr_cli.models.checks import rope_switch_length


def can_batch_lengths(model: Any, longest: int) -> bool:
    """Whether rows of at most `longest` tokens leave the results of others in a batch unchanged."""
    switch = rope_switch_length(model.config.to_dict())
    return switch is None or longest <= switch


def make_batches(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Batches of row indices, the longest rows first.

    Args:
        lengths: The number of tokens of each row.
        most_tokens: The most tokens of a batch, padding included; a longer row is a batch by
            itself.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rows = len(batches[-1]) + 1 if batches else most_rows + 1
        if rows > most_rows or rows * lengths[batches[-1][0]] > most_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def make_batches_for(model: Any, lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Batches of any number of rows; of one, if longer rows would change the model's results."""
    together = can_batch_lengths(model, max(lengths))
    return make_batches(lengths, len(lengths) if together else 1, most_tokens)
