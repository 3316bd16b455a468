"""The head of a language model: from hidden states to logits, at the targets and nowhere else.

Knows a model and a batch of token ids with labels; does not know what is done with the logits.
Rows that are padded are so on the right, where causal attention cannot see the padding: the model
runs without a padding mask, and attention takes its kernel for plain causal rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

TARGETS_AT_ONCE = 512  # rows of [targets, vocabulary] logits held in fp32


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside an adapter, if there is one."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def model_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model itself is called with."""
    left_out = ("labels", "attention_mask", "targets", "input_tokens")
    return {name: inputs[name] for name in inputs if name not in left_out}


def target_hidden(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor:
    """hidden[N, H] of the targets' predictions in a model that has no fused head."""
    output = model.base_model(**model_inputs(inputs), use_cache=False)
    return at_targets(output.last_hidden_state, inputs["targets"]["at"])


def at_targets(hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """hidden[N, H] of hidden[B, T, H] at the flattened positions at[N]."""
    return hidden.flatten(0, 1).index_select(0, at)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """logits[N, V] in fp32 from hidden[N, H], as the model's own forward makes them."""
    return as_logits(model.get_output_embeddings()(hidden), model.config.get_text_config())


def as_logits(product: torch.Tensor, text: Any) -> torch.Tensor:
    """Scaled and capped, as a model of this text config does with what its head's matrix makes."""
    logits = product.float() * logit_scale(text)
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def logit_scale(text: Any) -> float:
    """What a model of this text config multiplies its logits by, as in TRL's fused head.

    Cohere names it logit_scale, Falcon-H1 lm_head_multiplier; Granite divides
    by logits_scaling, by which HyperCLOVA X multiplies.
    """
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(text, name, None) is not None:
            return float(getattr(text, name))
    scaling = getattr(text, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if text.model_type == "hyperclovax" else 1 / float(scaling)
