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
    ids: Sequence[Any],
    scores: Iterable[Any],
    asked: Iterable[Any],
    score: float,
    prompts: Iterable[Any] = (),
) -> dict[str, Any]:
    """The entries of results.json: {item id: score}, and hashes of what was asked and how.

    `items` is None where `score` is not the mean of its items: corpus BLEU, several values for an
    item, ids that are not unique.

    Args:
        asked: For each item what was put to the model; the same ids may stand for other items.
        prompts: In which words it was put, by the model's template; empty or None if not known.
    """
    try:
        items = {str(key): float(value) for key, value in zip(ids, scores, strict=True)}
    except (TypeError, ValueError):
        items = {}
    is_mean = len(items) == len(ids) > 0 and math.isclose(
        sum(items.values()) / len(items), score, abs_tol=1e-9
    )
    read = [*prompts]
    return {
        "items": items if is_mean else None,
        "items_hash": _hash(ids, asked),
        "prompts_hash": _hash(ids, read) if read and None not in read else None,
    }


def _hash(ids: Sequence[Any], values: Iterable[Any]) -> str:
    pairs = zip(ids, values, strict=True)
    lines = sorted(json.dumps([str(key), what], sort_keys=True, default=str) for key, what in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


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
