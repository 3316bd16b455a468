"""A dataset -> its rows; those of a dataset that a user wrote are checked.

Knows what a row has to be; does not know what rows are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from talr_cli.data.base import Dataset, Example, Splits
from talr_cli.data.duplicates import unique_ids
from talr_cli.errors import UserError, failure_of
from talr_cli.fields import is_own, target_of


def load(dataset: Dataset) -> Splits:
    """All of its rows and their scorer.

    Raises:
        UserError: They cannot be loaded, or are no `Example`s.
    """
    return _checked(dataset, dataset.load)


def load_test(dataset: Dataset) -> Splits:
    """The rows to score and their scorer; training rows only where a dataset needs them for that.

    A dataset says so by a method `load_test`; raises as `load`.
    """
    return _checked(dataset, getattr(dataset, "load_test", dataset.load))


def _checked(dataset: Dataset, load: Callable[[], Splits]) -> Splits:
    if not is_own(type(dataset)):
        return load()
    name = target_of(type(dataset))
    try:
        found = load()
        if not isinstance(found, Splits):
            raise UserError(
                f"dataset: {name} loads {type(found).__name__}: give "
                "Splits(train=[...], validation=[...], test=[...], scorer=...)"
            )
        lists = {key: list(getattr(found, key)) for key in ("train", "validation", "test")}
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UserError(f"dataset: {name} cannot be loaded ({failure_of(error)})") from error
    for split, rows in lists.items():
        for number, row in enumerate(rows):
            if (problem := _problem(row)) is not None:
                raise UserError(f"dataset: {name} loads a row, {split}[{number}], that {problem}")
    scorer = found.scorer
    if isinstance(scorer, type) or not (scorer is None or callable(scorer)):
        raise UserError(
            f"dataset: {name} has the scorer {scorer!r}: give an object that is called with "
            "(output, reference)"
        )
    unique = {split: unique_ids(rows, split) for split, rows in lists.items()}
    return Splits(unique["train"], unique["validation"], unique["test"], scorer)


def _problem(row: Any) -> str | None:
    """What is wrong with a row of the user's own; None: nothing."""
    if not isinstance(row, Example):
        return f"is a {type(row).__name__}, no Example"
    for key in ("id", "completion", "group", "category"):
        if not isinstance(one := getattr(row, key), str):
            return f"has {one!r} as {key}: a text is wanted"
    if not isinstance(row.reference, Mapping):
        return f"has {row.reference!r} as reference: a dict is wanted"
    is_list = isinstance(row.messages, list | tuple) and row.messages
    if not (is_list and all(isinstance(one, dict) and "role" in one for one in row.messages)):
        return f"has {row.messages!r} as messages: some {{'role': ..., 'content': ...}} are wanted"
    return None
