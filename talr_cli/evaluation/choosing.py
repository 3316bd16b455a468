"""The log-probability of each of a row's choices as the answer to its prompt.

Knows a model and a renderer; does not know which choice is correct.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from talr_cli import progress
from talr_cli.data.base import Example
from talr_cli.data.rendering import Rendered, Renderer
from talr_cli.evaluation.continuations import Choices, continuation_likelihoods
from talr_cli.evaluation.generation import require_room
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.reading import ignores_padding, pad_left, position_arguments
from talr_cli.models.checks import max_positions


@torch.inference_mode()
def choice_likelihoods(
    model: Any,
    renderer: Renderer,
    rows: Sequence[tuple[Example, Mapping[str, str]]],
    batch_size: BatchSize,
) -> list[dict[str, float]]:
    """For each row {choice: log-probability in nats of its completion after the prompt}.

    The sum is over the tokens that training would teach. The end of the turn is one of them, so
    that a choice has no advantage if it is the beginning of another one.

    Args:
        rows: Each row with its {choice: completion}.
        batch_size: How many completions are read at once.

    Raises:
        UserError: A row is longer than the model's positions.
    """
    answers = [
        [renderer.encode(replace(example, completion=completion)) for completion in own.values()]
        for example, own in rows
    ]
    most = max_positions(model.config.to_dict()) or sys.maxsize
    for (example, _), own in zip(rows, answers, strict=True):
        require_room(example, max(len(one.input_ids) for one in own), most)
    every = [one for own in answers for one in own]
    scored = max((len(one.targets) for one in every), default=1)
    tokens = max((len(one.input_ids) for one in every), default=1)
    batch_size.leave_room_for(scored, model, tokens)
    totals = _read_shared(model, answers, batch_size)
    if totals is None:
        totals = _read_separately(model, answers, renderer.tokenizer.pad_token_id, batch_size)
    return [
        dict(zip(own, found, strict=True)) for (_, own), found in zip(rows, totals, strict=True)
    ]


def _read_shared(
    model: Any, answers: Sequence[Sequence[Rendered]], batch_size: BatchSize
) -> list[list[float]] | None:
    """The totals, reading the prompt of each row once; None if that is not possible."""
    prompts = [{tuple(one.input_ids[: -len(one.targets)]) for one in own} for own in answers]
    if model._is_stateful or any(len(own) > 1 for own in prompts) or min(map(len, answers)) < 2:
        return None
    questions = [
        Choices(prompt, [one.targets for one in own])
        for (prompt,), own in zip(prompts, answers, strict=True)
    ]
    order = sorted(range(len(questions)), key=lambda row: -len(questions[row].before))
    found: list[list[list[tuple[float, bool]]] | None] = []

    def read(batch: Sequence[int]) -> None:
        if None in found:
            return
        own = [questions[row] for row in batch]
        with progress.share(len(batch), of=len(order)):
            found.append(continuation_likelihoods(model, own, batch_size.current, torch.float32))

    batch_size.in_batches(order, read)
    totals: list[list[float]] = [[] for _ in questions]
    for row, likelihoods in zip(
        order, (one for batch in found for one in batch or []), strict=False
    ):
        totals[row] = [total for total, _ in likelihoods]
    return None if None in found else totals


def _read_separately(
    model: Any, answers: Sequence[Sequence[Rendered]], pad: Any, batch_size: BatchSize
) -> list[list[float]]:
    """The totals, reading every answer together with its prompt."""
    sequences = [one for own in answers for one in own]
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index].input_ids))
    totals = [0.0] * len(sequences)

    def read(batch: Sequence[int]) -> None:
        ids, mask = pad_left([sequences[index].input_ids for index in batch], pad)
        ids, mask = ids.to(model.device), mask.to(model.device)
        lengths = [len(sequences[index].targets) for index in batch]
        # All answers end in the last column, so the logits of the prompts need not be computed.
        kept = max(lengths) + 1
        where = position_arguments(model, mask, ids.shape[1])
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, **where).logits
        # Some models have no such argument, and give the logits of all tokens.
        for index, length, row, own in zip(batch, lengths, logits, ids, strict=True):
            log_probs = row[-length - 1 : -1].float().log_softmax(-1)  # one row's at a time
            totals[index] = log_probs.gather(-1, own[-length:, None]).sum().item()

    def read_some(batch: Sequence[int]) -> None:
        with progress.share(len(batch), of=len(order)):
            longest = max(len(sequences[index].input_ids) for index in batch)
            apart = not ignores_padding(model, longest)
            for piece in [[one] for one in batch] if apart else [batch]:
                read(piece)

    batch_size.in_batches(order, read_some)
    left = iter(totals)
    return [[next(left) for _ in own] for own in answers]
