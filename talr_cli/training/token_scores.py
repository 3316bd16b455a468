"""Batch -> log-probabilities of its targets, and of nothing else, on every device.

TRL's fused head projects only the target positions through the vocabulary on GPUs, but every
position elsewhere. Here the backbone's output is cut down to the target positions before TRL's
head sees it, so that prompt positions cost no projection on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from talr_cli.data.rendering import IGNORED
from talr_cli.methods.base import TargetTokens


def add_token_scores(model: nn.Module, outputs: tuple[str, ...]) -> None:
    """Give the model TRL's fused head with just the per-token `outputs` an objective needs."""
    add_fused_lm_head(causal_lm(model), outputs=("log_probs", *outputs))


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside an adapter, if there is one."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def score_targets(
    model: nn.Module, unwrapped: nn.Module, inputs: Mapping[str, Any]
) -> TargetTokens:
    """Score the targets of a batch.

    Args:
        model: What is called: `unwrapped` inside DDP or FSDP, or itself.
        unwrapped: The model that went through `add_token_scores`.
        inputs: input_ids[B, T], labels[B, T] (-100 on everything that is no target) and either an
            attention_mask[B, T] (padded) or position_ids[1, T] (rows joined without padding).
    """
    labels = inputs["labels"]
    mask = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][mask]

    def keep_targets(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, :-1][mask][None]
        return output

    # A forward hook, not a patch: wrappers (DDP, FSDP, PEFT) call the backbone as they please.
    handle = causal_lm(unwrapped).base_model.register_forward_hook(keep_targets)
    try:
        passed = {key: value for key, value in inputs.items() if key != "labels"}
        scored = model(**passed, shift_labels=targets[None], use_cache=False, fused_lm_head=True)
    finally:
        handle.remove()
    entropy = None if scored.entropy is None else scored.entropy[0]
    return TargetTokens(scored.log_probs[0], _sequence_of_targets(inputs)[:, 1:][mask], entropy)


def _sequence_of_targets(inputs: Mapping[str, Any]) -> torch.Tensor:
    """sequence[B, T]: the number of the sequence each position belongs to."""
    positions = inputs.get("position_ids")
    if positions is not None and "attention_mask" not in inputs:
        return (positions == 0).cumsum(1) - 1
    rows, length = inputs["labels"].shape
    return torch.arange(rows, device=inputs["labels"].device)[:, None].expand(rows, length)
