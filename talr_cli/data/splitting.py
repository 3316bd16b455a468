"""Divides rows into splits, and draws or selects some of them; none of it uses the run's seed.

Knows keys and shares; does not know what a row means.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from talr_cli.data.base import Example
from talr_cli.errors import UserError

T = TypeVar("T")


def check_shares(validation_share: float, test_share: float) -> None:
    """Raise UserError unless both shares leave something to train on."""
    if validation_share + test_share >= 1:
        raise UserError(
            f"dataset.validation_share={validation_share} and dataset.test_share={test_share} must "
            "be at least 0 and leave something to train on"
        )


def hashed_split(key: str, validation_share: float, test_share: float) -> str:
    """`train`, `validation` or `test`, by a hash of the key, which no two splits share."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def split_by_key(
    rows: Iterable[tuple[str, T]], validation_share: float, test_share: float
) -> dict[str, list[T]]:
    """{split: rows} from pairs of (key, row), by `hashed_split`."""
    splits: dict[str, list[T]] = {"train": [], "validation": [], "test": []}
    for key, row in rows:
        splits[hashed_split(key, validation_share, test_share)].append(row)
    return splits


def sample_evenly(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """`limit` of the rows, with the same share of every category, in their order; None: all.

    They are every n-th row in the order of category and group. The first rows of a file are often
    of one kind, while the mean over these is close to the mean over all rows.
    """
    if limit is None:
        return list(examples)
    by_kind = sorted(range(len(examples)), key=lambda i: (examples[i].category, examples[i].group))
    return [examples[index] for index in sorted(spread_evenly(by_kind, limit))]


def spread_evenly(rows: Sequence[T], most: int) -> list[T]:
    """`most` rows at equal distances (the middles of equal parts); all if there are fewer."""
    total = len(rows)
    if most >= total:
        return list(rows)
    return [rows[(2 * n + 1) * total // (2 * most)] for n in range(most)]


def sample_rows(rows: Sequence[T], option: str, count: int | None, seed: int) -> list[T]:
    """`count` random rows; a larger count includes the rows of a smaller one. None: all.

    Args:
        option: The name of the count in the config, for the error.

    Raises:
        UserError: There are fewer rows.
    """
    if count is None:
        return list(rows)
    if not 0 < count <= len(rows):
        raise UserError(
            f"dataset.{option}={count} is not between 1 and the {len(rows)} rows there are"
        )
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order[:count]
