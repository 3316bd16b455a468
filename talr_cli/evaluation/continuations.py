"""How likely each of several continuations of a text is, the text read once for all of them.

The choices of a question share all but their last few tokens: the keys and values of what they
share are computed once, and the vocabulary's logits for the continuations only.

Knows token ids; does not know what they stand for.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from talr_cli.evaluation.generation import left_padded, plain_cache


@dataclass(frozen=True)
class Choices:
    """A text of at least two tokens, and continuations of at least one."""

    text: Sequence[int]
    continuations: Sequence[Sequence[int]]


@torch.inference_mode()
def read_once(
    model: Any, questions: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]] | None:
    """(log-probability in nats, whether each token is the likeliest) of every continuation.

    Args:
        questions: Those of like length should stand together.
        most_rows: Continuations at once.
        dtype: Of the log-probabilities; None: that of the logits.

    Returns:
        None where the model keeps more of a text than keys and values: it has to read it anew.
    """
    results: list[list[tuple[float, bool]]] = []
    for batch in _batches(questions, most_rows):
        found = _batch(model, batch, most_rows, dtype)
        if found is None:
            return None
        results += found
    return results


def _batches(questions: Sequence[Choices], most_rows: int) -> list[list[Choices]]:
    batches: list[list[Choices]] = [[]]
    rows = 0
    for question in questions:
        rows += len(question.continuations)
        if batches[-1] and rows > most_rows:
            batches.append([])
            rows = len(question.continuations)
        batches[-1].append(question)
    return batches if questions else []


def _batch(
    model: Any, batch: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]] | None:
    # The last token of the text goes in with the continuation, whose first token it predicts.
    ids, mask = left_padded([question.text[:-1] for question in batch], pad_id=0)
    ids, mask = ids.to(model.device), mask.to(model.device)
    first = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = model(
        input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **_at(model, first)
    ).past_key_values
    if not plain_cache(cache):
        return None
    rows = [
        (number, [question.text[-1], *tokens])
        for number, question in enumerate(batch)
        for tokens in question.continuations
    ]
    results: list[list[tuple[float, bool]]] = [[] for _ in batch]
    for start in range(0, len(rows), most_rows):
        piece = rows[start : start + most_rows]
        is_last = start + most_rows >= len(rows)
        texts = torch.tensor([number for number, _ in piece], device=model.device)
        own = cache if is_last else copy.deepcopy(cache)
        own.batch_select_indices(texts)
        width = max(len(tokens) for _, tokens in piece)
        padded = torch.zeros(len(piece), width, dtype=torch.long)
        for row, (_, tokens) in enumerate(piece):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        padded = padded.to(model.device)
        lengths = mask.sum(-1)[texts]
        logits = model(
            input_ids=padded[:, :-1],
            attention_mask=torch.cat([mask[texts], torch.ones_like(padded[:, :-1])], dim=-1),
            past_key_values=own,
            use_cache=True,
            **_at(model, lengths[:, None] + torch.arange(width - 1, device=model.device)),
        ).logits
        for row, (number, tokens) in enumerate(piece):
            targets = padded[row, 1 : len(tokens)]
            log_probs = logits[row, : len(targets)].log_softmax(-1, dtype=dtype)
            likeliest = bool((log_probs.argmax(-1) == targets).all())
            picked = log_probs.gather(-1, targets[:, None])
            results[number].append((float(picked.sum()), likeliest))
    return results


def _at(model: Any, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """The positions, for a model that is told them; others count by the mask."""
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return {"position_ids": positions} if takes else {}
