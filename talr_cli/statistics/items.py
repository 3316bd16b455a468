"""The items that a score is the mean of: their entries in results.json, and errors over items.

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
    """The entries of results.json: {item id: score}, and hashes of the questions and prompts.

    `items` is None if `score` is not the mean over items, as for corpus BLEU, for several values
    per item, and for ids that are not unique.

    Args:
        ids, scores: One of each item.
        asked: The content of each item, as two data sets may use the same ids.
        prompts: The text of each prompt after the chat template; empty, or with None among them, if
            it is not known.
    """
    try:
        items = {str(key): float(value) for key, value in zip(ids, scores, strict=True)}
    except (TypeError, ValueError):
        items = {}
    is_mean = len(items) == len(ids) > 0 and math.isclose(
        sum(items.values()) / len(items), score, abs_tol=1e-9
    )
    texts = [*prompts]
    return {
        "items": items if is_mean else None,
        "items_hash": _hash(ids, asked),
        "prompts_hash": _hash(ids, texts) if texts and None not in texts else None,
    }


def _hash(ids: Sequence[Any], values: Iterable[Any]) -> str:
    pairs = zip(ids, values, strict=True)
    lines = sorted(json.dumps([str(key), one], sort_keys=True, default=str) for key, one in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def span(scores: Any) -> float:
    """The range of the scores.

    1 for scores within [0, 1], even if all are equal, as other items may differ; else max - min.

    Args:
        scores: An array of any shape.
    """
    low, high = float(scores.min()), float(scores.max())
    return 1.0 if low >= 0 and high <= 1 else high - low


def clustered_error(sums: Sequence[float], counts: Sequence[int]) -> float | None:
    """Standard error of the ratio sum(sums) / sum(counts) of independent items.

    The linearised variance of a ratio estimator (Cochran 1977, chapter 6). None for fewer than two
    items.

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
