"""What the optimizer steps of a run say, epoch by epoch. Knows rows of metrics.jsonl only."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def easy_share_by_epoch(metrics: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Claim 4 of the study: the share of target tokens with p >= 0.2, epoch by epoch.

    Each token counts as it stood when it was trained on, from a run's metrics.
    """
    shares = []
    for epoch, steps in sorted(steps_by_epoch(metrics).items()):
        easy = sum(tokens * share for tokens, share in steps)
        shares.append({"epoch": epoch, "easy_share": easy / sum(tokens for tokens, _ in steps)})
    return shares


def steps_by_epoch(metrics: Sequence[dict[str, Any]]) -> dict[int, list[tuple[int, float]]]:
    """{epoch, from 1: (target tokens, share of them that is easy) of each optimizer step}."""
    steps: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in metrics:
        epoch, tokens = row.get("epoch"), row.get("target_tokens")
        hard = row.get("hard_token_share")
        if tokens and epoch is not None and hard is not None:
            # A step at epoch 1.0 belongs to the first.
            steps[max(1, math.ceil(epoch))].append((tokens, 1 - hard))
    return steps
