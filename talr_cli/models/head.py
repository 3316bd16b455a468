"""The head of a language model: from hidden states to logits, at the targets and nowhere else.

Knows a model and a batch of token ids with labels; does not know what is done with the logits.
Rows are padded on the right, where causal attention cannot see the padding. So the model runs
without a padding mask, and attention uses its kernel for plain causal rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from talr_cli.errors import UserError

log = logging.getLogger(__name__)

TARGETS_AT_ONCE = 512  # rows of [targets, vocabulary] logits held in fp32


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside an adapter, if there is one."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def model_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a batch that the model itself is called with."""
    left_out = ("labels", "attention_mask", "targets", "input_tokens")
    return {name: inputs[name] for name in inputs if name not in left_out}


def backbone(model: PreTrainedModel) -> Any:
    """The model without its head; in Llama 4 and Mllama it is not where their class says."""
    found: Any = model.base_model
    if found is not model:
        return found
    return model.model if hasattr(model, "model") else model.language_model.model


def target_hidden(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor:
    """hidden[N, H] that predict the N targets, in a model that has no fused head."""
    output = backbone(model)(**model_inputs(inputs), use_cache=False)
    return at_targets(output.last_hidden_state, inputs["targets"]["at"])


def at_targets(hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """hidden[N, H] of hidden[B, T, H] at the flattened positions at[N]."""
    return hidden.flatten(0, 1).index_select(0, at)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """logits[N, V] in fp32 from hidden[N, H], as the model's own forward makes them."""
    return as_logits(model.get_output_embeddings()(hidden), model.config.get_text_config())


def as_logits(projected: torch.Tensor, text: Any) -> torch.Tensor:
    """logits[N, V] in fp32 from what the head's matrix gives, for a model of this text config."""
    logits, cap = projected.float() * logit_scale(text), logit_cap(text)
    return logits if cap is None else (logits / cap).tanh() * cap


def logit_cap(text: Any) -> float | None:
    """The cap that a model of this text config softly keeps its logits below; None: no cap.

    RecurrentGemma and xLSTM each have a name of their own for it.
    """
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(text, name, None)) is not None), None)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose losses would be wrong here: tried on a few tokens.

    A loss is made of the last hidden states by `head_logits`, and rows are trained as if no token
    saw a later one. Weights on torch's device `meta`, or a kernel that is for another device,
    cannot be tried.

    Raises:
        UserError: The model's own logits are others, or depend on later tokens.
    """
    training, text = model.training, model.config.get_text_config()
    # Weights of several dtypes, and flash attention in fp32, compute under autocast only.
    mixed = len({p.dtype for p in model.parameters() if p.is_floating_point()}) > 1
    mixed = mixed or is_flash_attention_requested(model.config)
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            row = _trial_row(model)
            own, made = _own_and_made(model, row)
            begun = model(input_ids=row[:, :4], use_cache=False).logits[0].float()
    except (RuntimeError, ImportError) as error:
        log.info("the model's head is not tried (%s)", type(error).__name__)
        return
    finally:
        model.train(training)
    close = _rounding(torch.bfloat16 if mixed else next(model.parameters()).dtype)
    if not _alike(made, own, close):
        raise UserError(
            f"{text.model_type} models make their logits in a way of their own, which the losses "
            "here do not know: give a model of another kind"
        )
    if not _alike(begun, own[:4], 2 * close):
        raise UserError(
            f"this {text.model_type} model looks at later tokens: it is no causal language model, "
            "or its config.json does not say so (is_decoder)"
        )


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether `head_logits` of its last hidden states are the model's own logits: tried."""
    own, made = _own_and_made(model, _trial_row(model))
    return _alike(made, own, _rounding(model.dtype))


def _trial_row(model: PreTrainedModel) -> torch.Tensor:
    """ids[1, 8]: any tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.tensor([[(7 * i + 3) % vocabulary for i in range(8)]], device=model.device)


def _own_and_made(model: PreTrainedModel, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the model's logits[T, V], those that `head_logits` makes) of ids[1, T], in fp32."""
    own = model(input_ids=row, use_cache=False).logits[0].float()
    hidden = backbone(model)(input_ids=row, use_cache=False).last_hidden_state
    return own, head_logits(model, hidden[0])


def _alike(one: torch.Tensor, other: torch.Tensor, close: float) -> bool:
    return one.shape == other.shape and logits_off(one, other) <= close


def _rounding(dtype: torch.dtype) -> float:
    """The largest `logits_off` that rounding in this dtype explains."""
    return 1e-3 if dtype == torch.float32 else 0.05


def logits_off(one: torch.Tensor, other: torch.Tensor) -> float:
    """The relative distance of two logits[..., V]; adding a constant to a row changes nothing."""
    one, other = (each - each.mean(-1, keepdim=True) for each in (one, other))
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def logit_scale(text: Any) -> float:
    """What a model of this text config multiplies its logits by, as in TRL's fused head.

    Cohere calls it logit_scale, Falcon-H1 lm_head_multiplier. Granite divides by logits_scaling,
    HyperCLOVA X multiplies by it; Inkling divides by a multiplier of its width.
    """
    if getattr(text, "logits_mup_width_multiplier", None) is not None:
        return 1 / float(text.logits_mup_width_multiplier)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(text, name, None) is not None:
            return float(getattr(text, name))
    scaling = getattr(text, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if text.model_type == "hyperclovax" else 1 / float(scaling)
