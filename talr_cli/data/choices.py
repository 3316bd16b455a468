"""The possible completions of rows that are answered by choosing among them.

Knows rows whose reference has "choices" and "answer"; does not know models or datasets.
"""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.data.base import Example
from talr_cli.errors import UserError


def possible_completions(examples: Sequence[Example]) -> list[dict[str, str]]:
    """For each row {choice: completion}: its completion with the answer replaced by each choice.

    The text before the answer must be the same in all rows, such as `Answer: `. A row's own working
    would give the correct choice away.

    Raises:
        UserError: A row has no choices, or its completion is not of this form.
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
