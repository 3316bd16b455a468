"""Texts that a model has read, as keys and values; a beginning that texts share is read once.

Knows token ids and transformers' caches; does not know what is done with what was read.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from talr_cli.models.head import logits_off
from talr_cli.models.row_batches import rows_are_apart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """Keys and values of B texts, their mask[B, T] (0 at padding) and last logits[B, K, V]."""

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor

    def of(self, rows: Sequence[int]) -> Read:
        """A copy of these rows; a row may be named several times."""
        indices = torch.tensor(rows, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.batch_select_indices(indices)
        return Read(cache, self.mask[indices], self.logits[indices])


def read(
    model: Any, texts: Sequence[Sequence[int]], after: Read | None = None, logits: int = 1
) -> Read:
    """The model reads the texts, padded on the left.

    Args:
        after: What was read before each of them, one row a text.
        logits: For how many of the last tokens logits are made.
    """
    ids, mask = left_padded(texts, pad_id=0)
    ids, mask = ids.to(model.device), mask.to(model.device)
    past: dict[str, Any] = {}
    if after is not None:
        mask = torch.cat([after.mask, mask], dim=-1)
        past = as_past(model, after.cache)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=logits,
        **past,
        **positions(model, mask, ids.shape[1]),
    )
    return Read(output.get(cache_name(output)), mask, output.logits)


def as_past(model: Any, cache: Any) -> dict[str, Any]:
    """Keys and values as an argument of the model."""
    return {cache_name(inspect.signature(model.forward).parameters): cache}


def cache_name(named: Container[str]) -> str:
    """The name of keys and values among these; transformers 5.24 renamed them."""
    return "cache" if "cache" in named else "past_key_values"


def read_beginning(model: Any, texts: Sequence[Sequence[int]]) -> tuple[int, Read | None]:
    """(how many first tokens all texts share, those as read); (0, None) where it is not worth it.

    At least one token of each text is left over.
    """
    shared = begin_alike(texts)
    if shared < 1 or len(texts) < 2 or model._is_stateful:
        return 0, None
    begun = read(model, [texts[0][:shared]])
    # A sliding window would count the padding between what is shared and what follows.
    if type(begun.cache) is not DynamicCache:
        return 0, None
    if not all(type(layer) is DynamicLayer for layer in begun.cache.layers):
        return 0, None
    return shared, begun


_TAKES_PADDING: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@torch.inference_mode()
def takes_padding(model: Any, longest: int = 0) -> bool:
    """Whether a row that is padded on the left comes out as it does alone: tried on two short rows.

    Some models count the padding: those whose positions or state ignore the mask, and those whose
    positions depend on the longest row.

    Args:
        longest: Tokens of the longest row, with its answer.
    """
    if not rows_are_apart(model, longest):
        return False
    if model not in _TAKES_PADDING:
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        long, short = ([(7 * i + 3) % vocabulary for i in range(length)] for length in (14, 5))
        found = []
        for rows in ([long, short], [short]):
            ids, mask = (one.to(model.device) for one in left_padded(rows, pad_id=0))
            where = positions(model, mask, ids.shape[1])
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **where).logits
            found.append(logits[-1, -1].float())
        close = 1e-3 if model.dtype == torch.float32 else 0.1
        _TAKES_PADDING[model] = logits_off(*found) <= close
        if not _TAKES_PADDING[model]:
            log.info("rows of different lengths are read one by one: this model counts padding")
    return _TAKES_PADDING[model]


def begin_alike(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all texts share; at least one of each text is left over."""
    ordered = sorted(map(list, texts))
    pairs = enumerate(zip(ordered[0], ordered[-1], strict=False))
    least = min(map(len, texts)) - 1
    return min(least, next((place for place, (a, b) in pairs if a != b), least))


def positions(model: Any, mask: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """Positions of the last tokens, for a model that takes them; others count by the mask."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -last:]}


def is_plain(cache: Any) -> bool:
    """Whether a cache holds a key and a value for each token of each row, and nothing else."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def left_padded(
    sequences: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids[B, T] with all sequences ending in the last column, mask[B, T])."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    return ids, mask
