"""The items that a score is the mean of: what results.json keeps of them, and errors over them.

Knows ids and scores; does not know what the items are, nor how two runs are compared.
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
        ids, scores: Of each item.
        asked: What each item asks; the same ids may stand for other items.
        prompts: The text of each prompt, as the model's template words it; empty, or with None,
            where it is not known.
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
    """How far the scores of two items can lie apart.

    1 for scores from 0 to 1, even if all are right: another item may be wrong. Else max - min.

    Args:
        scores: An array of any shape.
    """
    low, high = float(scores.min()), float(scores.max())
    return 1.0 if low >= 0 and high <= 1 else high - low


def clustered_error(sums: Sequence[float], counts: Sequence[int]) -> float | None:
    """Standard error of the ratio sum(sums) / sum(counts), the items being independent.

    The linearised variance of a ratio estimator (Cochran 1977, chapter 6); None of fewer than two.

    Args:
        sums: The sum of the values in each item, e.g. the losses of the tokens of a passage.
        counts: The number of values in each item.
    """
    n = len(sums)
    if n < 2:
        return None
    mean = sum(sums) / sum(counts)
    residuals = [total - mean * count for total, count in zip(sums, counts, strict=True)]
    return statistics.stdev(residuals) * math.sqrt(n) / sum(counts)
