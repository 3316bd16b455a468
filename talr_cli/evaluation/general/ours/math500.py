"""The verdict of math500.yaml: the answer stated last equals the reference, as mathematics."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import math_verify  # noqa: F401  (so that its absence is known before anything is generated)

from talr_cli.scorers.math import MathScorer


@functools.cache
def _scorer() -> MathScorer:
    return MathScorer()


def verdict(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"acc": float(_scorer()(results[0], doc).correct)}
