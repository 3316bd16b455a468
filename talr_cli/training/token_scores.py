"""Batch -> log-probabilities of its targets, and of nothing else, on every device.

TRL's fused head projects only the target positions through the vocabulary on GPUs, but every
position elsewhere. Here the backbone's output is cut down to the target positions before TRL's
head sees it, so that prompt positions cost no projection on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import trl.trainer.utils
from torch import nn
from transformers import PreTrainedModel

from talr_cli.methods.base import TargetTokens
from talr_cli.models.head import TARGETS_AT_ONCE, causal_lm, head_logits, model_inputs, target_mask

VOCABULARY_AT_ONCE = 4096  # columns of TRL's head on a CPU, where its 32768 do not fit the caches


def add_token_scores(model: nn.Module, outputs: tuple[str, ...]) -> None:
    """Give the model TRL's fused head with just the per-token `outputs` an objective needs."""
    language_model = causal_lm(model)
    if language_model.device.type == "cpu":
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = VOCABULARY_AT_ONCE
    fused = tuple(output for output in outputs if output != "topk_entropy")
    trl.trainer.utils.add_fused_lm_head(language_model, outputs=("log_probs", *fused))


def score_targets(
    model: nn.Module,
    unwrapped: nn.Module,
    inputs: Mapping[str, Any],
    top_k: int | None = None,
) -> tuple[TargetTokens, torch.Tensor]:
    """Score the targets of a batch.

    Args:
        model: What is called: `unwrapped` inside DDP or FSDP, or itself.
        unwrapped: The model that went through `add_token_scores`.
        inputs: input_ids[B, T], labels[B, T] (-100 on everything that is no target), either an
            attention_mask[B, T] (padded) or position_ids[1, T] (rows joined without padding), and
            optionally the sequence_weights[S] of the batch's rows and the base_log_probs[N] of its
            targets.
        top_k: Also the entropy over so many of the likeliest tokens, without gradient.

    Returns:
        The N targets, and the hidden[N, H] that the head turned into their predictions.
    """
    mask = target_mask(inputs)
    targets = inputs["labels"][:, 1:][mask]
    kept = {}

    def keep_targets(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        kept["hidden"] = output.last_hidden_state = output.last_hidden_state[:, :-1][mask][None]
        return output

    # A forward hook, not a patch: wrappers (DDP, FSDP, PEFT) call the backbone as they please.
    handle = causal_lm(unwrapped).base_model.register_forward_hook(keep_targets)
    try:
        scored = model(
            **model_inputs(inputs), shift_labels=targets[None], use_cache=False, fused_lm_head=True
        )
    finally:
        handle.remove()
    hidden = kept["hidden"][0]
    sequence = _sequence_of_targets(inputs)[:, 1:][mask]
    tokens = TargetTokens(
        log_probs=scored.log_probs[0],
        sequence=sequence,
        entropy=_row(scored.entropy),
        topk_entropy=None if top_k is None else _topk_entropy(causal_lm(unwrapped), hidden, top_k),
        log_sum_sq_probs=_row(scored.log_sum_sq_probs),
        sequence_weights=(
            inputs["sequence_weights"][sequence] if "sequence_weights" in inputs else None
        ),
        base_log_probs=inputs.get("base_log_probs"),
    )
    return tokens, hidden


def base_tokens(inputs: Mapping[str, Any]) -> TargetTokens:
    """The targets of a batch as the base scored them before training: no model is asked."""
    sequence = _sequence_of_targets(inputs)[:, 1:][target_mask(inputs)]
    log_probs = inputs["base_log_probs"]
    return TargetTokens(log_probs, sequence, base_log_probs=log_probs)


@torch.no_grad()
def _topk_entropy(model: PreTrainedModel, hidden: torch.Tensor, top_k: int) -> torch.Tensor:
    """entropy[N] in nats of the top_k likeliest tokens, renormalised."""
    entropies = [hidden.new_zeros(0, dtype=torch.float32)]
    for chunk in hidden.split(TARGETS_AT_ONCE):
        log_probs = head_logits(model, chunk).topk(top_k).values.log_softmax(-1)
        entropies.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(entropies)


def _row(values: torch.Tensor | None) -> torch.Tensor | None:
    return None if values is None else values[0]


def _sequence_of_targets(inputs: Mapping[str, Any]) -> torch.Tensor:
    """sequence[B, T]: the number of the sequence each position belongs to."""
    positions = inputs.get("position_ids")
    if positions is not None and "attention_mask" not in inputs:
        return (positions == 0).cumsum(1) - 1
    rows, length = inputs["labels"].shape
    return torch.arange(rows, device=inputs["labels"].device)[:, None].expand(rows, length)
