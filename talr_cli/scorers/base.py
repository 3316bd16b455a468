"""The interface of scorers, which judge a model's output by the reference of a row.

Knows neither datasets nor models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Verdict:
    """How a model output was judged.

    Attributes:
        correct: True (1), False (0) or a partial score in [0, 1]. The score of rows is the mean.
        parsed: The answer that was read from the output; None if none was found.
        detail: Further values for the sample's record, as JSON types.
    """

    correct: bool | float
    parsed: str | None
    detail: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """Judges a model's output by `Example.reference`; the output is data, and never run as code."""

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict: ...


@runtime_checkable
class Summarizer(Protocol):
    """A scorer that computes more about all rows together than their mean."""

    def summary(
        self, verdicts: Sequence[Verdict], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Named numbers, perhaps nested, for results.json."""
        ...
