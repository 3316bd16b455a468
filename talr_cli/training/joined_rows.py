"""Attention over rows that were joined into one sequence instead of padded, by torch alone.

Without padding nothing is computed for positions that no loss depends on. The packages for flash
attention take such rows as they are. For torch's scaled dot-product attention (SDPA) transformers
would make a mask of all tokens by all tokens, which rules out the fast kernel: here torch's flash
kernel takes all rows in one call on a GPU (`varlen`), and each row is a call of SDPA elsewhere.
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
from talr_cli.models.frozen import is_whole
from talr_cli.models.head import backbone, model_inputs
from talr_cli.training import varlen
from talr_cli.training.collator import Collator

log = logging.getLogger(__name__)

SDPA_BY_ROW = "sdpa_by_row"
_WINDOWS: set[int | None] = set()  # those that layers have asked for since a trial began


def joins_rows(
    choice: bool | None,
    model: PreTrainedModel,
    device: str,
    rows_at_once: int,
    half: torch.dtype | None = None,
) -> bool:
    """Whether to join the rows of a batch: the user's `choice`, or else where that is faster.

    Args:
        half: What is computed in under autocast; None: fp32.

    Raises:
        UserError: `choice` is true, and the model does not keep joined rows apart.
    """
    flash = is_flash_attention_requested(model.config)
    # A call of SDPA for each row beats padding on a CPU, but not on a GPU. With the kernel even a
    # single row is joined: for a padded one transformers makes a mask, and waits for the GPU.
    faster = rows_at_once > 1 and (flash or device == "cpu")
    if device == "cuda" and not flash:
        faster = half is not None and can_attend_by_row(model) and _has_kernel(model, half)
    if choice is False or (choice is None and not faster):
        if choice is None and device == "cuda" and rows_at_once > 1:
            log.info("rows are padded: there is no kernel for joined ones here")
        return False
    apart = (flash or can_attend_by_row(model)) and rows_stay_apart(model, half)
    if choice and not apart:
        raise UserError(
            "trainer.padding_free=true is for flash attention, or for model.attention=sdpa in a "
            f"model that keeps joined rows apart; this {model.config.model_type} model "
            f"with {model.config._attn_implementation} does not: leave it out"
        )
    return apart


def _has_kernel(model: PreTrainedModel, half: torch.dtype) -> bool:
    """Whether torch's kernel takes the heads that the config names, in `half`."""
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    # Under FSDP2 the model itself is still on the CPU.
    device = torch.device("cuda", torch.cuda.current_device())
    return varlen.works(device, half, heads, keys, width)


@torch.no_grad()
def rows_stay_apart(model: PreTrainedModel, dtype: torch.dtype | None = None) -> bool:
    """Whether joined rows come out as each does alone: tried on the model with two short rows.

    A layer that mixes neighbouring tokens, or has a state that runs along the sequence, would carry
    something from row to row; some models do not take joined rows at all. How much is carried
    depends on the weights. So the second row is also put behind another first row: that must change
    nothing at all.

    Args:
        dtype: What the training computes in under autocast: on a GPU its kernel takes no other.
    """
    training, vocabulary = model.training, model.config.get_text_config().vocab_size
    first, other, second = (
        [(7 * i + start) % vocabulary for i in range(6)] for start in (3, 10, 20)
    )
    kernel = model.config._attn_implementation
    # Flash attention takes half precision only; weights of several dtypes need autocast.
    half = is_flash_attention_requested(model.config) or not is_whole(model)
    half = half or (model.device.type == "cuda" and dtype is not None)
    model.eval()
    try:
        with torch.autocast(model.device.type, dtype or torch.bfloat16, enabled=half):
            alone = torch.cat([_hidden(model, [row]) for row in (first, second)])
            attend_by_row(model)
            _WINDOWS.clear()
            joined, behind = (_hidden(model, [row, second]) for row in (first, other))
    except Exception as error:  # a model that is not made for joined rows may raise anything
        log.info("rows are padded: this model takes no joined ones (%s)", type(error).__name__)
        return False
    finally:
        if model.config._attn_implementation != kernel:
            model.set_attn_implementation(kernel)
        model.train(training)
    apart = _off(joined, alone) < (0.05 if half else 1e-3)
    apart = apart and _off(behind[6:], joined[6:]) < (1e-2 if half else 1e-5)
    if _has_window(model) and kernel == "sdpa" and {None} >= _WINDOWS:
        # Its layers rely on the mask and do not pass the window on; the rows of this trial are too
        # short to show that.
        log.info("rows are padded: this model does not tell its attention of its sliding window")
        return False
    if not apart:
        log.info("rows are padded: this model carries something from row to row")
    return apart


def _has_window(model: PreTrainedModel) -> bool:
    """Whether a layer sees only so many tokens."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    return getattr(text, "sliding_window", None) is not None and "sliding_attention" in kinds


def _hidden(model: PreTrainedModel, rows: list[list[int]]) -> torch.Tensor:
    """hidden[T, H] of joined rows, in fp32, from the inputs that training makes of them."""
    batch = Collator(pad_token_id=0, padding_free=True)(
        [{"input_ids": row, "labels": row} for row in rows]
    )
    inputs = send_to_device(model_inputs(batch), model.device)
    if len(rows) == 1:
        inputs = {"input_ids": inputs["input_ids"]}
    return backbone(model)(**inputs, use_cache=False).last_hidden_state[0].float()


def _off(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest relative distance of a token's two states."""
    return float(((one - other).norm(dim=-1) / other.norm(dim=-1)).max())


def can_attend_by_row(model: PreTrainedModel) -> bool:
    """Whether the model's attention is SDPA and can be replaced.

    A model that supports flash attention hands on all that tells rows apart.
    """
    return (
        model.config._attn_implementation == "sdpa"
        and model._supports_attention_backend
        and model._supports_flash_attn
    )


def attend_by_row(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model with SDPA run on joined rows and on nothing else, until `attend_as_loaded`.

    Others stay as they are: flash attention takes joined rows anyway.
    """
    if can_attend_by_row(model):
        # No mask is registered under the name, so that transformers makes none.
        AttentionInterface.register(SDPA_BY_ROW, _attention)
        model.set_attn_implementation(SDPA_BY_ROW)
    return model


def attend_as_loaded(model: PreTrainedModel) -> None:
    """Undo `attend_by_row`."""
    if model.config._attn_implementation == SDPA_BY_ROW:
        model.set_attn_implementation("sdpa")


@torch.compiler.disable  # rows differ from batch to batch: each would be compiled anew
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
    """torch's kernel for rows of different lengths; where there is none, SDPA on each row.

    Args:
        query: [1, heads, T, D]; key and value the same, perhaps with fewer heads.
        cu_seq_lens_q: [rows + 1], where each row starts, and T; max_length_q: of the longest.
        sliding_window: How many tokens, itself included, a token sees.

    Returns:
        [1, T, heads, D].
    """
    _WINDOWS.add(sliding_window)
    if varlen.usable(query, key, value, dropout):
        bounds = (cu_seq_lens_q, max_length_q)
        return varlen.attend(query, key, value, *bounds, scaling, sliding_window), None
    kwargs |= {"dropout": dropout, "scaling": scaling}
    lengths = cu_seq_lens_q.diff().tolist()
    rows = (states.split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, q, k, v, _window(q, sliding_window), **kwargs)[0]
        for q, k, v in zip(*rows, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def _window(query: torch.Tensor, size: int | None) -> torch.Tensor | None:
    """mask[T, T] of a row that is longer than the window; None: plain causal attention."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return ones.tril() & ones.triu(1 - size)
