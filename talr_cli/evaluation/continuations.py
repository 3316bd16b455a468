"""How likely each of several continuations of a text is, the text read once for all of them.

The choices of a question share all but their last few tokens, and questions often share their first
ones: the keys and values of what is shared are computed once, and the vocabulary's logits for the
continuations only.

Knows token ids; does not know what they stand for.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from talr_cli.evaluation.generation import left_padded, plain_cache


@dataclass(frozen=True)
class Choices:
    """A text of at least two tokens, and continuations of at least one."""

    text: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Read:
    """What a model has read: keys and values of B texts, and their mask[B, T], 0 at padding."""

    cache: Any
    mask: torch.Tensor

    def of(self, rows: torch.Tensor) -> _Read:
        """These rows, perhaps some of them several times; what is here stays as it is."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.batch_select_indices(rows)
        return _Read(cache, self.mask[rows])


@torch.inference_mode()
def read_once(
    model: Any, questions: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]] | None:
    """(log-probability in nats, whether each token is the likeliest) of every continuation.

    Args:
        questions: Batches are made of neighbours: those of like length should stand together.
        most_rows: Continuations at once.
        dtype: Of the log-probabilities; None: that of the logits.

    Returns:
        None where the model keeps more of a text than keys and values: it has to read it anew.
    """
    # The last token of a text goes in with the continuation, whose first token it predicts.
    texts = [list(question.text[:-1]) for question in questions]
    shared = min(_alike(min(texts), max(texts)), min(map(len, texts)) - 1)
    begun = None
    if shared > 0:
        begun = _read(model, None, [texts[0][:shared]])
        # A sliding window would count the padding that follows what is shared.
        if not all(type(layer) is DynamicLayer for layer in begun.cache.layers):
            begun, shared = None, 0
    results: list[list[tuple[float, bool]]] = []
    for batch in _batches(questions, most_rows):
        read = _read(model, begun, [question.text[shared:-1] for question in batch])
        if not plain_cache(read.cache):
            return None
        results += _continued(model, read, batch, most_rows, dtype)
    return results


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens the two begin with alike: of the first and the last in order, all do."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _batches(questions: Sequence[Choices], most_rows: int) -> Iterator[list[Choices]]:
    batch: list[Choices] = []
    rows = 0
    for question in questions:
        rows += len(question.continuations)
        if batch and rows > most_rows:
            yield batch
            batch, rows = [], len(question.continuations)
        batch.append(question)
    if batch:
        yield batch


def _read(model: Any, before: _Read | None, texts: Sequence[Sequence[int]]) -> _Read:
    """The model reads the texts, each after the one text that it has read before."""
    ids, mask = left_padded(texts, pad_id=0)
    ids, mask = ids.to(model.device), mask.to(model.device)
    past = {}
    if before is not None:
        begun = before.of(torch.zeros(len(texts), dtype=torch.long, device=model.device))
        mask, past = torch.cat([begun.mask, mask], dim=-1), {"past_key_values": begun.cache}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=1,
        **past,
        **_at(model, positions),
    )
    return _Read(output.past_key_values, mask)


def _continued(
    model: Any, read: _Read, batch: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]]:
    rows = [
        (number, [question.text[-1], *tokens])
        for number, question in enumerate(batch)
        for tokens in question.continuations
    ]
    results: list[list[tuple[float, bool]]] = [[] for _ in batch]
    for start in range(0, len(rows), most_rows):
        piece = rows[start : start + most_rows]
        width = max(len(tokens) for _, tokens in piece)
        ids = torch.zeros(len(piece), width, dtype=torch.long)  # causal: the padding is not seen
        for row, (_, tokens) in enumerate(piece):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        ids = ids.to(model.device)
        begun = read.of(torch.tensor([number for number, _ in piece], device=model.device))
        mask = torch.cat([begun.mask, torch.ones_like(ids[:, 1:])], dim=-1)
        logits = model(
            input_ids=ids[:, :-1],
            attention_mask=mask,
            past_key_values=begun.cache,
            use_cache=True,
            **_at(model, mask.cumsum(-1)[:, 1 - width :] - 1),
        ).logits
        for row, (number, tokens) in enumerate(piece):
            targets = ids[row, 1 : len(tokens)]
            log_probs = logits[row, : len(targets)].log_softmax(-1, dtype=dtype)
            likeliest = bool((log_probs.argmax(-1) == targets).all())
            picked = log_probs.gather(-1, targets[:, None])
            results[number].append((float(picked.sum()), likeliest))
    return results


def _at(model: Any, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """The positions, for a model that is told them; others count by the mask."""
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return {"position_ids": positions} if takes else {}
