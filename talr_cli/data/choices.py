"""Rows that are answered by choosing: the completions that each of them could have had.

Knows rows whose reference has "choices" and "answer"; does not know models or datasets.
"""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.data.base import Example
from talr_cli.errors import UserError


def possible_completions(examples: Sequence[Example]) -> list[dict[str, str]]:
    """For each row {choice: completion}: its own, with every choice in the place of the answer.

    What stands before the answer must be the same in all rows, as `Answer: ` is: working that
    belongs to the row would give the right choice away.

    Raises:
        UserError: The rows are not of this kind.
    """
    completions = []
    beginnings: dict[str, str] = {}
    for example in examples:
        answer, choices = (example.reference.get(key) for key in ("answer", "choices"))
        if not choices:
            raise UserError(
                "domain.answer_by=likelihood chooses between the choices of a row, and "
                f"{example.id} has none: set domain.answer_by=generation"
            )
        if not example.completion.endswith(str(answer)):
            raise UserError(
                "domain.answer_by=likelihood needs completions that end with the answer, and that "
                f"of {example.id} does not end with {str(answer)!r}: set "
                "domain.answer_by=generation"
            )
        beginning = example.completion.removesuffix(str(answer))
        beginnings.setdefault(beginning, example.id)
        if len(beginnings) > 1:
            first, second = beginnings.values()
            raise UserError(
                "domain.answer_by=likelihood needs completions that differ in nothing but the "
                f"choice, and those of {first} and {second} differ before it: train on the answer "
                "alone (dataset.target=label) or set domain.answer_by=generation"
            )
        completions.append({str(choice): f"{beginning}{choice}" for choice in choices})
    return completions
