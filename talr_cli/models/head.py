"""The head of a language model: turns hidden states into logits, at the targets only.

Knows a model and a batch of token ids with labels; does not know what the logits are for. Rows are
padded on the right, where causal attention ignores the padding. So the model runs without a padding
mask, and attention uses its kernel for plain causal rows.
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

from talr_cli.errors import UserError, reason_of
from talr_cli.models.shape import CAPS
from talr_cli.models.trial_rows import trial_row

log = logging.getLogger(__name__)

TARGETS_AT_ONCE = 512  # targets whose logits over the vocabulary are in memory, in fp32


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without an adapter around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def model_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a batch that the model's forward pass takes."""
    left_out = ("labels", "attention_mask", "targets", "input_tokens")
    return {name: inputs[name] for name in inputs if name not in left_out}


def backbone(model: PreTrainedModel) -> Any:
    """The model without its head, which Llama 4 and Mllama keep in an unusual attribute."""
    found: Any = model.base_model
    if found is not model:
        return found
    return model.model if hasattr(model, "model") else model.language_model.model


def target_hidden(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor:
    """hidden[N, H] from which the N targets are predicted, by a model without our fused head."""
    output = backbone(model)(**model_inputs(inputs), use_cache=False)
    return at_targets(output.last_hidden_state, inputs["targets"]["at"])


def at_targets(hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """hidden[N, H] of hidden[B, T, H] at the flattened positions at[N]."""
    return hidden.flatten(0, 1).index_select(0, at)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """logits[N, V] in fp32 from hidden[N, H], as the model's own forward pass computes them."""
    return scale_logits(model.get_output_embeddings()(hidden), model.config.get_text_config())


def scale_logits(projected: torch.Tensor, text: Any) -> torch.Tensor:
    """Scale and cap the projection[N, V] of the head, in fp32, as the text config says."""
    logits, cap = projected.float() * logit_scale(text), logit_cap(text)
    return logits if cap is None else (logits / cap).tanh() * cap


def logit_cap(text: Any) -> float | None:
    """The soft cap of the logits by a model's text config; None if there is none.

    RecurrentGemma and xLSTM each have their own name for it.
    """
    return next((cap for name in CAPS if (cap := getattr(text, name, None)) is not None), None)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose losses would be wrong here; tries it on a few tokens.

    The losses here are computed from the last hidden states and the head's matrix, and assume that
    no token sees a later one. The trial is skipped for weights on the meta device, and for a kernel
    that does not run on this device.

    Raises:
        UserError: The model's own logits differ, or depend on later tokens, or the model does not
            take such rows in training.
    """
    training, text = model.training, model.config.get_text_config()
    # With weights of several dtypes, or flash attention in fp32, only autocast works.
    mixed = len({p.dtype for p in model.parameters() if p.is_floating_point()}) > 1
    mixed = mixed or is_flash_attention_requested(model.config)
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            row = _trial_row(model)
            own, made = _logits_both_ways(model, row)
            begun = model(input_ids=row[:, :4], use_cache=True).logits[0].float()
            prepare: Any = model.prepare_inputs_for_generation
            asked = prepare(row, use_cache=False)["input_ids"]
            model.train()
            model(input_ids=row[:, :5], use_cache=False)
    except (RuntimeError, ImportError) as error:
        log.info("the model's head is not tried (%s)", type(error).__name__)
        return
    except Exception as error:  # each class raises its own
        raise UserError(
            f"{text.model_type} models cannot be trained here, as they do not take rows of any "
            f"length, or not with a cache: {reason_of(error, max_chars=200)}"
        ) from error
    finally:
        model.train(training)
    close = _largest_rounding(torch.bfloat16 if mixed else next(model.parameters()).dtype)
    if not _alike(made, own, close):
        raise UserError(
            f"{text.model_type} models make their logits in a way of their own, which the losses "
            "here do not know: give a model of another kind"
        )
    if asked.shape != row.shape:  # as XLM does
        raise UserError(f"{text.model_type} models add a token to a prompt before they answer it")
    if not _alike(begun, own[:4], 2 * close):
        raise UserError(
            f"this {text.model_type} model looks at later tokens: it is no causal language model, "
            "or its config.json does not say so (is_decoder)"
        )


@torch.no_grad()
def check_reads(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be scored; tries whether it reads tokens, with a cache too.

    Raises:
        UserError: It needs something else than tokens, or has no cache that works.
    """
    row = _trial_row(model)
    try:
        for use_cache in (False, True):
            model(input_ids=row, use_cache=use_cache)
    except (RuntimeError, ImportError) as error:  # of a kernel, or of memory: as in `check_head`
        log.info("whether the model reads tokens is not tried (%s)", type(error).__name__)
    except Exception as error:  # each class raises its own
        raise UserError(
            f"{model.config.model_type} models cannot be scored here, as they do not read plain "
            f"tokens, or not with a cache: {reason_of(error, max_chars=200)}"
        ) from error


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether last hidden states and the head's matrix give the model's own logits; tries it."""
    own, made = _logits_both_ways(model, _trial_row(model))
    return _alike(made, own, _largest_rounding(model.dtype))


def _trial_row(model: PreTrainedModel) -> torch.Tensor:
    """ids[1, 8]: any tokens."""
    return torch.tensor([trial_row(model, 8)], device=model.device)


def _logits_both_ways(
    model: PreTrainedModel, row: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the model's own logits[T, V], those by the head's matrix) for ids[1, T], in fp32."""
    own = model(input_ids=row, use_cache=False).logits[0].float()
    hidden = backbone(model)(input_ids=row, use_cache=False).last_hidden_state
    head: Any = model.get_output_embeddings()
    if getattr(head, "in_features", hidden.shape[-1]) != hidden.shape[-1]:
        return own, own[:0]  # something lies between them, as in RemBERT
    if not head.weight.is_floating_point():  # quantised
        return own, head_logits(model, hidden[0])
    # A head may do more than this: Dory's has a factor for each token.
    projected = torch.nn.functional.linear(hidden[0], head.weight, getattr(head, "bias", None))
    return own, scale_logits(projected, model.config.get_text_config())


def _alike(one: torch.Tensor, other: torch.Tensor, close: float) -> bool:
    return one.shape == other.shape and logit_distance(one, other) <= close


def _largest_rounding(dtype: torch.dtype) -> float:
    """The largest `logit_distance` that rounding in this dtype can cause."""
    return 1e-3 if dtype == torch.float32 else 0.05


def logit_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The relative distance of two logits[..., V], up to a constant in each row."""
    one, other = (each - each.mean(-1, keepdim=True) for each in (one, other))
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def logit_scale(text: Any) -> float:
    """The factor of the logits by a model's text config, as in TRL's fused head.

    Cohere calls it logit_scale, Falcon-H1 lm_head_multiplier. Granite divides by logits_scaling,
    HyperCLOVA X multiplies by it. Inkling divides by logits_mup_width_multiplier.
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
