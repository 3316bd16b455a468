"""What a scorer is: it judges one model output against the reference of a row.

Knows neither datasets nor models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Verdict:
    """How a model output was judged.

    Attributes:
        correct: Right (True, 1) or wrong (False, 0), or a share of what was asked, in [0, 1]. A
            score is the mean of them.
        parsed: The answer that was read from the output; None if there is none.
        detail: What else is kept with the sample, under names of its own, as JSON has it.
    """

    correct: bool | float
    parsed: str | None
    detail: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """Judges one model output against `Example.reference`; the output is data, never evaluated."""

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict: ...


@runtime_checkable
class Summarizer(Protocol):
    """A scorer that has more to say of all rows together than their mean."""

    def summary(
        self, verdicts: Sequence[Verdict], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Numbers under their names, nested as deep as they need; they go into results.json."""
        ...
