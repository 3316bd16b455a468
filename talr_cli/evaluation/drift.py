"""How far a model has moved from its base, in nats per token: cheap and with little variance.

Cross-entropy on a fixed general text of ours, and KL(base || model) on the suite's prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from talr_cli.statistics.items import clustered_error

_POSITIONS_AT_ONCE = 256  # rows of [positions, vocabulary] logits held in fp32


def general_passages() -> list[str]:
    """The fixed text: passages of many registers, separated by empty lines."""
    text = (
        resources.files("talr_cli.evaluation.general.mini").joinpath("drift.txt").read_text("utf-8")
    )
    return [passage.strip() for passage in text.split("\n\n") if passage.strip()]


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str]
) -> dict[str, Any]:
    """Mean negative log-likelihood per token; the error is over passages."""
    sums, counts = [], []
    for passage in passages:
        ids = tokenizer(passage, return_tensors="pt").input_ids.to(model.device)
        logits = model(ids).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        sums.append(loss.item())
        counts.append(ids.shape[1] - 1)
    return _per_token(sums, counts)


@torch.inference_mode()
def kl_from_base(
    model: PreTrainedModel, base: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Mean over prompt tokens of KL(base || model); the error is over prompts.

    Args:
        prompts: Token ids, one list per prompt.
    """
    sums, counts = [], []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        ours, theirs = model(ids).logits[0], base(ids).logits[0]
        total = 0.0
        for start in range(0, len(ours), _POSITIONS_AT_ONCE):
            window = slice(start, start + _POSITIONS_AT_ONCE)
            log_p = theirs[window].float().log_softmax(-1)
            log_q = ours[window].float().log_softmax(-1)
            total += (log_p.exp() * (log_p - log_q)).sum().item()
        sums.append(total)
        counts.append(len(prompt))
    return _per_token(sums, counts)


def _per_token(sums: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Mean over the tokens of all passages or prompts."""
    return {
        "score": sum(sums) / sum(counts),
        "stderr": clustered_error(sums, counts),
        "n": len(sums),
        "tokens": sum(counts),
    }
