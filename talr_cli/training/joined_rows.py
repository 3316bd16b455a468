"""Attention over rows that are joined into one sequence instead of padded, by torch alone.

Without padding nothing is computed that no loss depends on. The flash-attention packages accept
joined rows. For torch's scaled dot-product attention (SDPA), however, transformers makes a mask of
all tokens by all tokens, which rules out the fast kernel. Here, instead, torch's flash kernel
attends over all rows in one call on a GPU (`varlen`); elsewhere SDPA is called once per row.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.generic import is_flash_attention_requested

from talr_cli.errors import UserError
from talr_cli.models.frozen import is_fp32
from talr_cli.models.head import backbone, model_inputs
from talr_cli.models.shape import head_sizes
from talr_cli.models.trial_rows import trial_row
from talr_cli.training import varlen
from talr_cli.training.collator import Collator

log = logging.getLogger(__name__)

SDPA_BY_ROW = "sdpa_by_row"
_WINDOWS: set[int | None] = set()  # the sliding windows that layers passed on during a trial


def should_join_rows(
    choice: bool | None,
    model: PreTrainedModel,
    device: str,
    rows_at_once: int,
    half: torch.dtype | None = None,
) -> bool:
    """Whether to join the rows of a batch: as the user chose, else if it is possible and faster.

    Args:
        choice: trainer.padding_free; None: whatever is faster.
        rows_at_once: The micro-batch size.
        half: The dtype under autocast; None: no autocast.

    Raises:
        UserError: `choice` is true, but in this model joined rows would affect each other.
    """
    flash = is_flash_attention_requested(model.config)
    # One call of SDPA per row beats padding on a CPU, but not on a GPU. With the kernel even a
    # single row counts as joined, since for a padded one transformers makes a mask, and the host
    # waits for the GPU.
    faster = rows_at_once > 1 and (flash or device == "cpu")
    if device == "cuda" and not flash:
        faster = half is not None and can_attend_by_row(model) and _has_kernel(model, half)
    if choice is False or (choice is None and not faster):
        if choice is None and device == "cuda" and rows_at_once > 1:
            log.info("rows are padded: there is no kernel for joined ones here")
        return False
    apart = (flash or can_attend_by_row(model)) and keeps_rows_apart(model, half)
    if choice and not apart:
        raise UserError(
            "trainer.padding_free=true is for flash attention, or for model.attention=sdpa in a "
            f"model that keeps joined rows apart; this {model.config.model_type} model "
            f"with {model.config._attn_implementation} does not: leave it out"
        )
    return apart


def _has_kernel(model: PreTrainedModel, half: torch.dtype) -> bool:
    """Whether torch's kernel works for the model's attention heads, in the dtype `half`."""
    # Under FSDP2 the model itself is still on the CPU.
    device = torch.device("cuda", torch.cuda.current_device())
    sizes = set(head_sizes(model.config.get_text_config()))
    return all(varlen.works(device, half, *one) for one in sizes)


@torch.no_grad()
def keeps_rows_apart(model: PreTrainedModel, dtype: torch.dtype | None = None) -> bool:
    """Whether joined rows give the same hidden states as separate ones: tries two short rows.

    A layer that mixes neighbouring tokens, or has a recurrent state, would carry information from
    row to row, and some models do not accept joined rows at all. With small weights the difference
    may be small. So the second row is also put behind another first row, which must not change its
    hidden states at all.

    Args:
        dtype: The training's dtype under autocast, the only one that a GPU's kernel accepts.
    """
    first, other, second = (trial_row(model, 6, start) for start in (3, 10, 20))
    training, kernel = model.training, model.config._attn_implementation
    # Flash attention takes half precision only; weights of several dtypes need autocast.
    half = is_flash_attention_requested(model.config) or not is_fp32(model)
    half = half or (model.device.type == "cuda" and dtype is not None)
    model.eval()
    try:
        with torch.autocast(model.device.type, dtype or torch.bfloat16, enabled=half):
            alone = torch.cat([_hidden_states(model, [row]) for row in (first, second)])
            attend_by_row(model)
            _WINDOWS.clear()
            joined, behind = (_hidden_states(model, [row, second]) for row in (first, other))
    except Exception as error:  # a model that is not made for joined rows may raise anything
        log.info("rows are padded: this model takes no joined ones (%s)", type(error).__name__)
        return False
    finally:
        if model.config._attn_implementation != kernel:
            model.set_attn_implementation(kernel)
        model.train(training)
    apart = _max_distance(joined, alone) < (0.05 if half else 1e-3)
    apart = apart and _max_distance(behind[6:], joined[6:]) < (1e-2 if half else 1e-5)
    if _has_window(model) and kernel == "sdpa" and {None} >= _WINDOWS:
        # Its layers rely on the mask and do not pass the window to the attention function. The
        # rows of this trial are too short to show that.
        log.info("rows are padded: this model does not tell its attention of its sliding window")
        return False
    if not apart:
        log.info("rows are padded: this model carries something from row to row")
    return apart


def _has_window(model: PreTrainedModel) -> bool:
    """Whether a layer has sliding-window attention."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    return getattr(text, "sliding_window", None) is not None and "sliding_attention" in kinds


def _hidden_states(model: PreTrainedModel, rows: list[list[int]]) -> torch.Tensor:
    """hidden[T, H] of joined rows, in fp32, from inputs as in training."""
    batch = Collator(pad_token_id=0, padding_free=True)(
        [{"input_ids": row, "labels": row} for row in rows]
    )
    inputs = send_to_device(model_inputs(batch), model.device)
    if len(rows) == 1:
        inputs = {"input_ids": inputs["input_ids"]}
    return backbone(model)(**inputs, use_cache=False).last_hidden_state[0].float()


def _max_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest relative distance between the two hidden states [T, H] of a token."""
    return float(((one - other).norm(dim=-1) / other.norm(dim=-1)).max())


def can_attend_by_row(model: PreTrainedModel) -> bool:
    """Whether the model's attention is SDPA and can be replaced.

    A model that supports flash attention passes on the arguments that separate the rows.
    """
    return (
        model.config._attn_implementation == "sdpa"
        and model._supports_attention_backend
        and model._supports_flash_attn
    )


def attend_by_row(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model with SDPA attend over joined rows, and only those, until `restore_attention`.

    Other models are not changed: flash attention accepts joined rows anyway. Returns the model.
    """
    if can_attend_by_row(model):
        # No mask is registered under the name, so that transformers makes none.
        AttentionInterface.register(SDPA_BY_ROW, _attention)
        model.set_attn_implementation(SDPA_BY_ROW)
    return model


def restore_attention(model: PreTrainedModel) -> None:
    """Undo `attend_by_row`."""
    if model.config._attn_implementation == SDPA_BY_ROW:
        model.set_attn_implementation("sdpa")


@torch.compiler.disable  # else it would be recompiled for every batch, as the rows differ
def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over joined rows: by torch's kernel if possible, else by SDPA on each row.

    The signature is that of transformers' attention functions.

    Args:
        query: [1, heads, T, D]; key and value the same, perhaps with fewer heads.
        cu_seq_lens_q: [rows + 1], the start of each row, then T.
        max_length_q: The length of the longest row.
        sliding_window: How many tokens a token sees, itself included; None: all before it.

    Returns:
        [1, T, heads, D].
    """
    _WINDOWS.add(sliding_window)
    if varlen.can_attend(query, key, value, dropout):
        bounds = (cu_seq_lens_q, max_length_q)
        return varlen.attend(query, key, value, *bounds, scaling, sliding_window), None
    kwargs |= {"dropout": dropout, "scaling": scaling}
    lengths = cu_seq_lens_q.diff().tolist()
    rows = (states.split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, q, k, v, _window_mask(q, sliding_window), **kwargs)[0]
        for q, k, v in zip(*rows, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def _window_mask(query: torch.Tensor, size: int | None) -> torch.Tensor | None:
    """mask[T, T] for a row longer than the window; None, for causal attention, if it is not."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return ones.tril() & ones.triu(1 - size)
