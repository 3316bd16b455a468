"""Computes the log-probabilities of a batch's targets, and of no other positions.

TRL's head computes logits in tiles, so that there is never a matrix of all targets by the whole
vocabulary. Its own search for the targets would make the host wait for the device in every forward
pass, and on a CPU it projects every position. So it is given only the hidden states of the targets,
at positions that the collator has found.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction

from talr_cli.methods.base import TargetTokens
from talr_cli.models.head import (
    TARGETS_AT_ONCE,
    at_targets,
    backbone,
    causal_lm,
    head_logits,
    logit_cap,
    logit_scale,
    model_inputs,
)
from talr_cli.training.head_kernel import columns_at_once


def add_token_scores(model: nn.Module, outputs: tuple[str, ...]) -> None:
    """Give the model a forward pass that scores targets, when it is called with `targets`.

    Args:
        outputs: What is computed besides log-probabilities; see `Objective.outputs`.
    """
    language_model = causal_lm(model)
    plain = language_model.forward
    text = language_model.config.get_text_config()
    cap, scale = logit_cap(text), logit_scale(text)
    fused = tuple(output for output in outputs if output != "topk_entropy")

    # generate() reads the forward pass's signature to see which arguments it may pass.
    @functools.wraps(type(language_model).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        targets: Mapping[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        if targets is None:
            return plain(*args, **kwargs)
        kwargs.pop("labels", None)  # PEFT passes labels=None
        # Backbone and head are looked up in each call, since FSDP2 and PEFT replace them.
        hidden = backbone(self)(*args, **kwargs).last_hidden_state
        hidden = at_targets(hidden, targets["at"])
        head: Any = self.get_output_embeddings()
        weight, bias = (
            one.full_tensor() if isinstance(one, DTensor) else one
            for one in (head.weight, head.bias)
        )
        columns = columns_at_once(hidden)
        scored = ChunkedLogProbFunction.apply(
            hidden, weight, bias, targets["ids"], 1.0, columns, cap, scale, fused
        )
        log_probs, entropy, log_sum_sq_probs, *_ = scored
        return {
            "hidden": hidden,
            "log_probs": log_probs,
            "entropy": entropy,
            "log_sum_sq_probs": log_sum_sq_probs,
        }

    language_model.forward = types.MethodType(forward, language_model)


def score_targets(
    model: nn.Module,
    unwrapped: nn.Module,
    inputs: Mapping[str, Any],
    top_k: int | None = None,
) -> tuple[TargetTokens, torch.Tensor]:
    """Score the targets of a batch.

    Args:
        model: What is called: `unwrapped` itself, or DDP or FSDP around it.
        unwrapped: The model that went through `add_token_scores`.
        inputs: A batch of the `Collator`, padded or joined.
        top_k: Over how many of the likeliest tokens `topk_entropy` is; None: not computed.

    Returns:
        The N targets, and the hidden[N, H] from which the head predicted them.
    """
    targets = inputs["targets"]
    scored = model(**model_inputs(inputs), targets=targets, use_cache=False)
    hidden = scored["hidden"]
    sequence, weights = targets["sequence"], targets.get("weights")
    tokens = TargetTokens(
        log_probs=scored["log_probs"],
        sequence=sequence,
        counts=targets["counts"],
        entropy=scored["entropy"],
        topk_entropy=None if top_k is None else _topk_entropy(causal_lm(unwrapped), hidden, top_k),
        log_sum_sq_probs=scored["log_sum_sq_probs"],
        sequence_weights=None if weights is None else weights[sequence],
        base_log_probs=targets.get("base_log_probs"),
    )
    return tokens, hidden


def base_tokens(inputs: Mapping[str, Any]) -> TargetTokens:
    """The targets of a batch with the scores of the base, which were computed before training."""
    targets = inputs["targets"]
    log_probs = targets["base_log_probs"]
    return TargetTokens(
        log_probs, targets["sequence"], base_log_probs=log_probs, counts=targets["counts"]
    )


@torch.no_grad()
def _topk_entropy(model: PreTrainedModel, hidden: torch.Tensor, top_k: int) -> torch.Tensor:
    """entropy[N] over the top_k likeliest tokens, renormalised, in nats."""
    entropies = [hidden.new_zeros(0, dtype=torch.float32)]
    for chunk in hidden.split(TARGETS_AT_ONCE):
        log_probs = head_logits(model, chunk).topk(top_k).values.log_softmax(-1)
        entropies.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(entropies)
