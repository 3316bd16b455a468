"""How likely each of several continuations of a text is; what they share is read once.

The choices of a question share all but their last few tokens, and questions often share their first
ones. Keys and values of what is shared are computed once, logits only for the continuations.

Knows token ids; does not know what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from talr_cli import progress
from talr_cli.evaluation.reading import (
    Read,
    as_past,
    begin_alike,
    is_plain,
    positions,
    read,
    read_beginning,
    takes_padding,
)


@dataclass(frozen=True)
class Choices:
    """A text of at least two tokens, and continuations of at least one."""

    text: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def shared(self) -> int:
        """How many first tokens all continuations share; at least one of each is left over."""
        return begin_alike(self.continuations)

    @property
    def before(self) -> list[int]:
        """What all continuations share, but for its last token, which predicts where they part."""
        return [*self.text, *self.continuations[0][: self.shared]][:-1]


@torch.inference_mode()
def read_once(
    model: Any, questions: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]] | None:
    """(log-probability in nats, whether each token is the likeliest) of every continuation.

    Args:
        questions: Batches are made of neighbours, so those of like length should stand together.
        most_rows: The most continuations in a batch.
        dtype: Of the log-probabilities; None: that of the logits.

    Returns:
        None where the model keeps more of a text than keys and values, or counts padding: then
        every text has to be read for itself.
    """
    longest = max(len(one.text) + max(map(len, one.continuations)) for one in questions)
    if not takes_padding(model, longest):
        return None
    shared, begun = read_beginning(model, [question.text[:-1] for question in questions])
    results: list[list[tuple[float, bool]]] = []
    for batch, done in _batches(questions, most_rows):
        progress.reach(done / len(questions))
        after = None if begun is None else begun.of([0] * len(batch))
        most = max(question.shared for question in batch)
        texts = read(model, [one.before[shared:] for one in batch], after, logits=max(most, 1))
        if not is_plain(texts.cache):
            return None
        results += _continued(model, texts, batch, most_rows, dtype)
    return results


def _batches(questions: Sequence[Choices], most_rows: int) -> Iterator[tuple[list[Choices], int]]:
    """(batch, how many questions come before it)."""
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


def _continued(
    model: Any, texts: Read, batch: Sequence[Choices], most_rows: int, dtype: torch.dtype | None
) -> list[list[tuple[float, bool]]]:
    beginnings = [
        _picked(logits[len(logits) - question.shared :], question.continuations[0], dtype)
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
        # Padded on the right, where causal attention does not see it.
        ids = torch.zeros(len(piece), width, dtype=torch.long)
        for row, (_, tokens) in enumerate(piece):
            ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        ids = ids.to(model.device)
        begun = texts.of([number for number, _ in piece])
        mask = torch.cat([begun.mask, torch.ones_like(ids)], dim=-1)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            **as_past(model, begun.cache),
            **positions(model, mask, width),
        ).logits
        for row, (number, tokens) in enumerate(piece):
            shared, rest = beginnings[number], _picked(logits[row], tokens[1:], dtype)
            total = torch.cat([shared[0], rest[0]]).sum()
            results[number].append((float(total), shared[1] and rest[1]))
    return results


def _picked(
    logits: torch.Tensor, tokens: Sequence[int], dtype: torch.dtype | None
) -> tuple[torch.Tensor, bool]:
    """(log-probabilities of the first n tokens by logits[n, V], whether each is the likeliest)."""
    count = min(len(logits), len(tokens))
    targets = torch.tensor(tokens[:count], device=logits.device, dtype=torch.long)
    log_probs = logits[:count].log_softmax(-1, dtype=dtype)
    likeliest = bool((log_probs.argmax(-1) == targets).all())
    return log_probs.gather(-1, targets[:, None]).squeeze(-1), likeliest
