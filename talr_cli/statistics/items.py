"""What a score is the mean of: it gives the standard error, and lets two runs be compared.

Knows ids and scores; does not know what the items are, nor how they are compared.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def scored_items(
    ids: Sequence[Any], scores: Iterable[Any], asked: Iterable[Any], score: float
) -> dict[str, Any]:
    """The entries of results.json: {item id: score}, and a hash of what was asked.

    `items` is None where `score` is not the mean of its items: corpus BLEU, several values for an
    item, ids that are not unique.

    Args:
        asked: For each item what was put to the model; the same ids may stand for other items.
    """
    try:
        items = {str(key): float(value) for key, value in zip(ids, scores, strict=True)}
    except (TypeError, ValueError):
        items = {}
    is_mean = len(items) == len(ids) > 0 and math.isclose(
        sum(items.values()) / len(items), score, abs_tol=1e-9
    )
    pairs = zip(ids, asked, strict=True)
    lines = sorted(json.dumps([str(key), what], sort_keys=True, default=str) for key, what in pairs)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"items": items if is_mean else None, "items_hash": digest[:16]}


def span(scores: Any) -> float:
    """How far two scores of items may lie apart: 1 of accuracies, else as far as these do.

    Args:
        scores: An array. That all are right does not say that none can be wrong.
    """
    low, high = float(scores.min()), float(scores.max())
    return 1.0 if low >= 0 and high <= 1 else high - low


def clustered_error(sums: Sequence[float], counts: Sequence[int]) -> float | None:
    """Linearised standard error of sum(sums) / sum(counts), the items being independent.

    Args:
        sums: Sum of the values that each item holds.
        counts: How many they are, e.g. the tokens of a passage.
    """
    n = len(sums)
    if n < 2:
        return None
    mean = sum(sums) / sum(counts)
    residuals = [total - mean * count for total, count in zip(sums, counts, strict=True)]
    return statistics.stdev(residuals) * math.sqrt(n) / sum(counts)
