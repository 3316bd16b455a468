"""The decoding loop, and how many rows of a model may go through it together.

A row that has ended leaves the batch. Caches of transformers are not right for every model, and not
every model ignores padding, so a trial compares the loop's logits with those of the whole row.

Knows how answers grow; does not know what is asked, nor how tokens are chosen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig

from talr_cli import progress
from talr_cli.evaluation.memory import rows_that_fit, unless_out_of_memory
from talr_cli.evaluation.reading import cache_name, is_plain_cache, pad_left
from talr_cli.models.head import logit_distance
from talr_cli.models.row_batches import can_batch_lengths
from talr_cli.models.trial_rows import ANSWER, SHORT, trial_length, trial_row

# logits[B, V] in fp32 -> tokens[B], the next token of each row.
Choose = Callable[[torch.Tensor], torch.Tensor]
ENDS = ("eos_token_id", "bos_token_id", "pad_token_id")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, the most new tokens, and strings that end the answer."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()


def choose_likeliest(logits: torch.Tensor) -> torch.Tensor:
    """tokens[B]: the likeliest token of each row of logits[B, V]."""
    return logits.argmax(-1)


def answer_together(model: Any, batch: Batch, cached: bool = True) -> list[tuple[list[int], bool]]:
    """Answer a batch of rows that `Together` allows.

    transformers' `generate` prepares the inputs and then calls `batch.search`.
    """
    ids, mask = pad_left([row.prompt for row in batch.rows], pad_id=0)
    with without_generation_config(model):
        model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=batch.most,
            do_sample=False,
            use_cache=cached,
            pad_token_id=0,  # `generate` wants one; the mask says what is padding
            custom_generate=batch.search,
        )
    return [(answer, place in batch.cut) for place, answer in enumerate(batch.answers)]


class Batch:
    """Rows that are answered together.

    Attributes:
        answers: The new tokens of each row so far.
        cut: The indices of rows that used up their budget before an end.
        most: The largest budget, which is the most steps.
    """

    def __init__(
        self,
        rows: Sequence[Request],
        ends: Container[int],
        stopped: Callable[[list[int]], bool] = lambda tokens: False,
        choose: Choose = choose_likeliest,
    ) -> None:
        self.rows, self._ends, self._stopped, self._choose = rows, ends, stopped, choose
        self.answers: list[list[int]] = [[] for _ in rows]
        self.cut: set[int] = set()
        self.most = max(row.max_new_tokens for row in rows)
        self._unended = set(range(len(rows)))

    def search(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **state: Any,
    ) -> torch.Tensor:
        """The decoding loop that `generate` calls instead of its own.

        Args:
            state: What `generate` passes from step to step: the cache, the mask, the positions.
        """
        left = list(range(len(input_ids)))  # for each row of the batch its index in `rows`
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
        for step in range(self.most):
            ended = len(self.rows) - len(self._unended)
            progress.reach((ended + len(self._unended) * step / self.most) / len(self.rows))
            output = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(
                output, state, is_encoder_decoder=False
            )
            chosen = self._choose(output.logits[:, -1].float())
            self._append(left, chosen.tolist())
            if not self._unended:
                break
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
            if len(self._unended) < len(left) and _rows_can_leave(state):
                kept = [row for row, place in enumerate(left) if place in self._unended]
                left = [left[row] for row in kept]
                indices = torch.tensor(kept, device=input_ids.device)
                input_ids, state = input_ids[indices], _select_rows(state, indices)
            new = 1 if state["use_cache"] else None
            inputs = model.prepare_inputs_for_generation(
                input_ids, next_sequence_length=new, **state
            )
        return input_ids

    def _append(self, left: Sequence[int], tokens: Sequence[int]) -> None:
        """Add a token to each answer that has not ended, and note those that end with it."""
        for place, token in zip(left, tokens, strict=True):
            if place not in self._unended:
                continue
            if token not in self._ends:
                self.answers[place].append(token)
            if token in self._ends or self._stopped(self.answers[place]):
                self._unended.remove(place)
            elif len(self.answers[place]) == self.rows[place].max_new_tokens:
                self._unended.remove(place)
                self.cut.add(place)


@contextmanager
def without_generation_config(model: Any) -> Iterator[None]:
    """Within this context `model.generate` uses only the end tokens of generation_config."""
    own = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(own, name) for name in ENDS})
    try:
        yield
    finally:
        model.generation_config = own


def _rows_can_leave(state: dict[str, Any]) -> bool:
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    return is_plain_cache(state.get(cache_name(state))) and all(
        value.dim() == 2 for value in tensors
    )


def _select_rows(state: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """What `generate` passes from step to step, for some rows only."""
    state[cache_name(state)].batch_select_indices(rows)
    return {
        name: value[rows] if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }


class Together(IntEnum):
    """Which rows may be answered in one batch."""

    UNCACHED = 0  # none, and not even a single one with a cache
    ALONE = 1
    SAME_LENGTH = 2
    ANY = 3


_TOGETHER: WeakKeyDictionary[Any, dict[int, Together]] = WeakKeyDictionary()
_WHY = {
    Together.SAME_LENGTH: "rows of different lengths are answered apart: this model counts padding",
    Together.ALONE: "rows are answered one by one: in a batch this model's predictions differ, or "
    "there is no memory to try it",
    Together.UNCACHED: "answers are made without a cache, which is slow: with the one that "
    "transformers has for this model, its predictions differ",
}


def rows_together(model: Any, longest: int, width: int | None = None) -> Together:
    """Which rows a model can answer in one batch as it answers each alone; tried once.

    Args:
        longest: The tokens of the longest row, with its answer.
        width: The same with its padding; None: there is none.
    """
    length, known = trial_length(model, width or longest), _TOGETHER.setdefault(model, {})
    if length not in known:
        known[length] = found = _try_together(model, length)
        if found in _WHY:
            log.info(_WHY[found])
    return min(
        known[length],
        Together.ANY if can_batch_lengths(model, longest) else Together.SAME_LENGTH,
    )


@torch.inference_mode()
def _try_together(model: Any, length: int) -> Together:
    """Try rows of up to `length` tokens; two of them grow beyond the window that they are for."""
    new = trial_row(model, ANSWER, start=5)
    same = max(5, length - SHORT - 1)
    rows = [
        Request(tuple(trial_row(model, tokens, start)), ANSWER)
        for start, tokens in ((3, length), (4, same), (9, same), (6, 5))
    ]
    fit = length == SHORT or rows_that_fit(model, length + ANSWER) >= len(rows)
    exact = model.dtype == torch.float32
    expected = [
        model(
            input_ids=torch.tensor([[*row.prompt, *new[:-1]]], device=model.device),
            use_cache=False,
        ).logits[0, -len(new) :]
        for row in rows
    ]

    def furthest(*batches: Sequence[int]) -> float:
        """The largest distance of the loop's logits from the expected ones."""
        distances = []
        for places in batches:
            seen: list[torch.Tensor] = []

            def choose(logits: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
                seen.append(logits)
                return torch.full_like(logits[:, 0], new[len(seen) - 1], dtype=torch.long)

            batch = Batch([rows[place] for place in places], (), choose=choose)
            answer = partial(answer_together, model, batch)
            if len(places) == 1:
                answer()
            elif not fit or unless_out_of_memory(answer) is None:
                return math.inf
            for row, place in enumerate(places):
                made = torch.stack([logits[row] for logits in seen])
                distances.append(logit_distance(made, expected[place].float()))
        return max(distances)

    close = 1e-3 if exact else 0.1
    if furthest([0, 1, 2, 3]) <= close:
        return Together.ANY
    if furthest([0], [1, 2]) <= close:
        return Together.SAME_LENGTH
    # Rounding must not cost a model its cache, without which answers take many times longer.
    return Together.ALONE if furthest([0], [1]) <= (close if exact else 0.3) else Together.UNCACHED
