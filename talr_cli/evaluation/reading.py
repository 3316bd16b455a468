"""Lets a model read texts and keeps their keys and values; a common prefix is read only once.

Knows token ids and transformers' caches; does not know what the texts are for.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from talr_cli.evaluation.memory import rows_that_fit, unless_out_of_memory
from talr_cli.models.head import logit_distance
from talr_cli.models.row_batches import can_batch_lengths
from talr_cli.models.trial_rows import SHORT, trial_length, trial_row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadTexts:
    """The keys and values of B texts, their mask[B, T] (0 at padding) and last logits[B, K, V]."""

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor

    def select(self, rows: Sequence[int]) -> ReadTexts:
        """A copy of these rows; a row may occur several times."""
        indices = torch.tensor(rows, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.batch_select_indices(indices)
        return ReadTexts(cache, self.mask[indices], self.logits[indices])


def read_texts(
    model: Any, texts: Sequence[Sequence[int]], after: ReadTexts | None = None, logits: int = 1
) -> ReadTexts:
    """Let the model read texts, which are padded on the left.

    Args:
        after: What was read before them, with one row for each text.
        logits: For how many of the last tokens logits are computed.
    """
    ids, mask = pad_left(texts, pad_id=0)
    ids, mask = ids.to(model.device), mask.to(model.device)
    past: dict[str, Any] = {}
    if after is not None:
        mask = torch.cat([after.mask, mask], dim=-1)
        past = cache_argument(model, after.cache)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=logits,
        **past,
        **position_arguments(model, mask, ids.shape[1]),
    )
    return ReadTexts(output.get(cache_name(output)), mask, output.logits)


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The keys and values as a keyword argument of the model's forward pass."""
    return {cache_name(inspect.signature(model.forward).parameters): cache}


def cache_name(named: Container[str]) -> str:
    """Which of these names is that of keys and values; transformers 5.24 renamed it."""
    return "cache" if "cache" in named else "past_key_values"


def read_shared_prefix(model: Any, texts: Sequence[Sequence[int]]) -> tuple[int, ReadTexts | None]:
    """(length of the texts' common prefix, the prefix as read); (0, None) if it cannot be shared.

    The prefix never includes the last token of a text.
    """
    shared = common_prefix_length(texts)
    if shared < 1 or len(texts) < 2 or model._is_stateful:
        return 0, None
    begun = read_texts(model, [texts[0][:shared]])
    # A sliding window would count the padding between the prefix and what follows.
    if type(begun.cache) is not DynamicCache:
        return 0, None
    if not all(type(layer) is DynamicLayer for layer in begun.cache.layers):
        return 0, None
    return shared, begun


_TAKES_PADDING: WeakKeyDictionary[Any, dict[int, bool]] = WeakKeyDictionary()


@torch.inference_mode()
def ignores_padding(model: Any, longest: int = 0) -> bool:
    """Whether left padding leaves a model's results unchanged; tried once, with a few rows.

    It does not if positions or a recurrent state ignore the mask, or if positions depend on the
    longest row of the batch. A cache with a window may be right only up to the window; so the rows
    of the trial are longer than those windows and chunks of the model that the batch exceeds.

    Args:
        longest: The tokens of the longest row, with its answer and padding.
    """
    if not can_batch_lengths(model, longest):
        return False
    length, known = trial_length(model, longest), _TAKES_PADDING.setdefault(model, {})
    if length not in known:
        known[length] = bool(unless_out_of_memory(partial(_try_padding, model, length)))
        if not known[length]:
            log.info(
                "rows of different lengths are read one by one: this model counts padding, or its "
                "cache changes its predictions, or there is no memory to try it"
            )
    return known[length]


def _try_padding(model: Any, length: int) -> bool:
    """Whether rows' last logits stay the same behind padding, read at once or in two.

    Args:
        length: The tokens of the longest of the rows.
    """
    rows = [trial_row(model, one) for one in (length, length - 9, 5)]
    if length > SHORT and rows_that_fit(model, length) < len(rows):
        return False

    def last_logits(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        ids, mask = (one.to(model.device) for one in pad_left(rows, pad_id=0))
        where = position_arguments(model, mask, ids.shape[1])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **where).logits
        return logits[:, -1].float()

    expected = torch.cat([last_logits([row]) for row in rows])
    found = [last_logits(rows)]
    if not model._is_stateful:
        begun = read_texts(model, [row[:-2] for row in rows])
        if is_plain_cache(begun.cache):
            ended = read_texts(model, [row[-2:] for row in rows], begun)
            found.append(ended.logits[:, -1].float())
    close = 1e-3 if model.dtype == torch.float32 else 0.1
    return all(
        logit_distance(one, other) <= close
        for logits in found
        for one, other in zip(logits, expected, strict=True)
    )


def common_prefix_length(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all texts share, not counting the last token of any."""
    ordered = sorted(map(list, texts))
    pairs = enumerate(zip(ordered[0], ordered[-1], strict=False))
    least = min(map(len, texts)) - 1
    return min(least, next((place for place, (a, b) in pairs if a != b), least))


def position_arguments(model: Any, mask: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """The argument `position_ids` for the last tokens, if the model takes it."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -last:]}


def is_plain_cache(cache: Any) -> bool:
    """Whether a cache holds keys and values of each row's tokens and no other state."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids[B, T] with all sequences ending in the last column, mask[B, T] with 0 at padding)."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    return ids, mask
