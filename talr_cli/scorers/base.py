"""What a scorer is: it judges one model output against the reference of a row.

Knows neither datasets nor models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Verdict:
    """How a model output was judged. `parsed` is the answer read from it, None if none."""

    correct: bool
    parsed: str | None


class Scorer(Protocol):
    """Judges one model output against `Example.reference`; the output is data, never evaluated."""

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict: ...


@runtime_checkable
class Summarizer(Protocol):
    """A scorer that has more to say of all rows together than the share of correct ones."""

    def summary(
        self, verdicts: Sequence[Verdict], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Numbers under their names, nested as deep as they need; they go into results.json."""
        ...
