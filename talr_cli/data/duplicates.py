"""Finds duplicates: ids within a split, and prompts that are in both training and test rows.

Knows examples; does not know where they came from.
"""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from talr_cli.data.base import Example, Message, Splits
from talr_cli.errors import UserError

log = logging.getLogger(__name__)

MOST_OVERLAP = 0.2  # the default of dataset.max_overlap, a share of the test rows


def unique_ids(examples: Sequence[Example], split: str) -> list[Example]:
    """The rows with unique ids, where repeated ones get numbers: `x`, `x#2`."""
    counts = Counter(example.id for example in examples)
    repeated = [name for name, count in counts.items() if count > 1]
    if not repeated:
        return list(examples)
    log.warning(
        "%d ids of the %s rows occur more than once, such as %s: the later ones are numbered, %s#2",
        *(len(repeated), split, repeated[0], repeated[0]),
    )
    taken: set[str] = set()
    unique = []
    for example in examples:
        numbers = (f"{example.id}#{number}" for number in itertools.count(2))
        free = (name for name in numbers if name not in taken and name not in counts)
        name = next(free) if example.id in taken else example.id
        taken.add(name)
        unique.append(replace(example, id=name))
    return unique


def count_overlap(train: Iterable[Example], test: Sequence[Example]) -> int:
    """How many test rows have a prompt whose answer is also taught by a training row.

    Prompts are compared without regard to case, white space and Unicode's compatibility forms.
    """
    asked = Counter(_key(example.messages) for example in test)
    if not asked:
        return 0
    # Only what is asked is kept: the prompts of all training rows would be a copy of their texts.
    lengths = {len(key) for key in asked}
    taught = set()
    for example in train:
        turns = [turn for turn in (*example.turns, len(example.messages)) if turn in lengths]
        # Each message is normalised once, however many of its row's answers are trained.
        whole = _key(example.messages[: max(turns, default=0)])
        taught |= {key for turn in turns if (key := whole[:turn]) in asked}
    return sum(asked[key] for key in taught)


def check_overlap(splits: Splits, most: float = MOST_OVERLAP) -> None:
    """Warn about test prompts that are also in the training rows.

    Args:
        splits: Its test rows are those that a score would be the mean of.

    Raises:
        UserError: Test rows are scored, and more than the share `most` of them are affected.
    """
    shared, total = count_overlap(splits.train, splits.test), len(splits.test)
    if not shared:
        return
    found = f"{shared} of {total} test prompts also occur in training"
    if splits.scorer is not None and shared > most * total:
        raise UserError(
            f"{found}, more than dataset.max_overlap={most}: their scores show memory and not "
            "ability; give other test rows, or raise it"
        )
    log.warning(found)


def _key(messages: Iterable[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], normalise(message["content"])) for message in messages)


def normalise(text: str) -> str:
    """The text in NFKC form, without case and with single spaces, for comparisons."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
