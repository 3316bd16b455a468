"""The log-probabilities of several continuations of a text, reading what they share only once.

The choices of a question share all but their last few tokens, and questions often begin alike. Keys
and values of what is shared are computed once, and logits only for the continuations.

Knows token ids; does not know what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from talr_cli import progress
from talr_cli.evaluation.reading import (
    ReadTexts,
    cache_argument,
    common_prefix_length,
    ignores_padding,
    is_plain_cache,
    position_arguments,
    read_shared_prefix,
    read_texts,
)


@dataclass(frozen=True)
class Choices:
    """A text of at least two tokens, and its continuations of at least one token each."""

    text: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def shared(self) -> int:
        """How many first tokens all continuations share, not counting the last one of any."""
        return common_prefix_length(self.continuations)

    @property
    def before(self) -> list[int]:
        """All that the continuations share, without its last token, whose prediction differs."""
        return [*self.text, *self.continuations[0][: self.shared]][:-1]


@torch.inference_mode()
def continuation_likelihoods(
    model: Any, questions: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]] | None:
    """For each continuation (log-probability in nats, whether each of its tokens is the likeliest).

    Args:
        questions: Neighbours share batches, so they should be sorted by length.
        most_rows: The most continuations in a batch.
        dtype: The dtype of the log-probabilities; None: that of the logits.

    Returns:
        None if every text has to be read for itself, because the model has other state than keys
        and values, or because padding changes its results.
    """
    # A text is padded to the longest, and continuations are padded behind it.
    width = max(len(one.text) for one in questions) + max(
        len(tokens) for one in questions for tokens in one.continuations
    )
    if not ignores_padding(model, width):
        return None
    shared, begun = read_shared_prefix(model, [question.text[:-1] for question in questions])
    results: list[list[tuple[float, bool]]] = []
    for batch, done in _batches(questions, most_rows):
        progress.reach(done / len(questions))
        after = None if begun is None else begun.select([0] * len(batch))
        most = max(question.shared for question in batch)
        texts = read_texts(
            model, [one.before[shared:] for one in batch], after, logits=max(most, 1)
        )
        if not is_plain_cache(texts.cache):
            return None
        results += _read_continuations(model, texts, batch, most_rows, dtype)
    return results


def _batches(questions: Sequence[Choices], most_rows: int) -> Iterator[tuple[list[Choices], int]]:
    """(batch, number of questions before it): each with at most `most_rows` continuations."""
    batch: list[Choices] = []
    rows = done = 0
    for question in questions:
        rows += len(question.continuations)
        if batch and rows > most_rows:
            yield batch, done
            done += len(batch)
            batch, rows = [], len(question.continuations)
        batch.append(question)
    if batch:
        yield batch, done


def _read_continuations(
    model: Any,
    texts: ReadTexts,
    batch: Sequence[Choices],
    most_rows: int,
    dtype: torch.dtype | None,
) -> list[list[tuple[float, bool]]]:
    beginnings = [
        _token_log_probs(logits[len(logits) - question.shared :], question.continuations[0], dtype)
        for question, logits in zip(batch, texts.logits, strict=True)
    ]
    rows = [
        (number, [*question.text, *tokens][len(question.before) :])
        for number, question in enumerate(batch)
        for tokens in question.continuations
    ]
    results: list[list[tuple[float, bool]]] = [[] for _ in batch]
    for start in range(0, len(rows), most_rows):
        piece = rows[start : start + most_rows]
        width = max(len(tokens) for _, tokens in piece) - 1
        # Padded on the right, where causal attention ignores it.
        ids = torch.zeros(len(piece), width, dtype=torch.long)
        for row, (_, tokens) in enumerate(piece):
            ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        ids = ids.to(model.device)
        begun = texts.select([number for number, _ in piece])
        mask = torch.cat([begun.mask, torch.ones_like(ids)], dim=-1)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            **cache_argument(model, begun.cache),
            **position_arguments(model, mask, width),
        ).logits
        for row, (number, tokens) in enumerate(piece):
            shared, rest = beginnings[number], _token_log_probs(logits[row], tokens[1:], dtype)
            total = torch.cat([shared[0], rest[0]]).sum()
            results[number].append((float(total), shared[1] and rest[1]))
    return results


def _token_log_probs(
    logits: torch.Tensor, tokens: Sequence[int], dtype: torch.dtype | None
) -> tuple[torch.Tensor, bool]:
    """(log-probabilities of the first n tokens by logits[n, V], whether all are the likeliest)."""
    count = min(len(logits), len(tokens))
    targets = torch.tensor(tokens[:count], device=logits.device, dtype=torch.long)
    log_probs = logits[:count].log_softmax(-1, dtype=dtype)
    likeliest = bool((log_probs.argmax(-1) == targets).all())
    return log_probs.gather(-1, targets[:, None]).squeeze(-1), likeliest
