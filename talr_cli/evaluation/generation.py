"""Answers: the likeliest token at every step, whatever the model's generation_config says.

Whatever its caller leaves out, transformers' `generate` takes from that file: beams, penalties,
bans, forced tokens, lengths. Here only the tokens that end an answer come from it. A row that has
ended leaves the batch, so that no step is spent on it. Answers can also be sampled: see `drawn`.

Knows how tokens are chosen; does not know what is asked, nor how an answer is judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from talr_cli import progress
from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.reading import cache_name, is_plain, left_padded, takes_padding
from talr_cli.models.checks import positions
from talr_cli.models.row_batches import batches_of
from talr_cli.models.saving import end_tokens

# logits[B, V] in fp32 -> the next token of each row.
Choose = Callable[[torch.Tensor], torch.Tensor]
ENDS = ("eos_token_id", "bos_token_id", "pad_token_id")
# What a generation_config says of itself, and not of answers.
_ABOUT_ITSELF = ("transformers_version", "_", "output_", "return_", "use_cache", "do_sample")


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, how many new ones may follow, and strings that end them."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A decoded answer.

    Attributes:
        cut: The budget was spent before the answer came to its end.
        shortened: The model's positions left it less than the budget.
    """

    text: str
    cut: bool
    shortened: bool = False


def request(renderer: Renderer, example: Example, max_new_tokens: int, most: int | None) -> Request:
    """What a row asks; its budget is cut to what its prompt leaves of `most` positions.

    The budget is below 1 where the prompt leaves no room for an answer.
    """
    prompt = tuple(renderer.prompt_ids(example.messages, example.tools))
    return Request(prompt, min(max_new_tokens, (most or sys.maxsize) - len(prompt)))


def requests(
    model: Any, renderer: Renderer, examples: Sequence[Example], max_new_tokens: int
) -> list[Request]:
    """What each row asks, as `request`.

    Raises:
        UserError: A prompt leaves no room for an answer.
    """
    most = positions(model.config.to_dict())
    found = [request(renderer, one, max_new_tokens, most) for one in examples]
    for example, one in zip(examples, found, strict=True):
        require_room(example, len(one.prompt) + 1, most or sys.maxsize)
    return found


def require_room(example: Example, tokens: int, most: int) -> None:
    """Refuse a row that takes more tokens than the model has positions."""
    if tokens > most:
        raise UserError(
            f"test row {example.id} takes {tokens} tokens or more with its answer, the model has "
            f"{most} positions: shorten or leave out such rows, or use a model with more positions"
        )


def as_answers(
    renderer: Renderer,
    rows: Sequence[Request],
    found: Sequence[tuple[list[int], bool]],
    max_new_tokens: int,
) -> list[Answer]:
    """The answers as text. `found`: tokens and whether they were cut, as `greedy` returns them."""
    return [
        Answer(
            renderer.text_of(tokens),
            cut,
            row.max_new_tokens < max_new_tokens,
        )
        for row, (tokens, cut) in zip(rows, found, strict=True)
    ]


@torch.inference_mode()
def generate(
    model: Any,
    renderer: Renderer,
    examples: Sequence[Example],
    max_new_tokens: int,
    batch_size: BatchSize,
) -> list[Answer]:
    """Greedy answers in the order of `examples`, in batches of prompts of like length.

    Args:
        batch_size: The most rows in a batch; of long rows there are fewer, see `batches_of`.
    """
    rows = requests(model, renderer, examples, max_new_tokens)
    found = answer_tokens(model, renderer, rows, batch_size)
    return as_answers(renderer, rows, found, max_new_tokens)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


# Rows in a batch of sampled answers. The samples depend on the batches, so these must not depend on
# how much memory is free.
DRAWN_AT_ONCE = 32


def drawn(seed: int, temperature: float = 1.0) -> Choose:
    """Samples tokens by their probabilities; the same batches and seed give the same tokens."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: torch.Tensor) -> torch.Tensor:
        probabilities = (logits / temperature).softmax(-1).cpu()
        tokens = torch.multinomial(probabilities, 1, generator=generator)
        return tokens[:, 0].to(logits.device)

    return choose


@torch.inference_mode()
def answer_tokens(
    model: Any,
    renderer: Renderer,
    rows: Sequence[Request],
    batch_size: BatchSize,
    choose: Choose = likeliest,
) -> list[tuple[list[int], bool]]:
    """As `greedy`, for any number of rows: in batches of prompts of like length."""
    ends = set(end_tokens(model, renderer.end_of_turn))
    lengths = [len(row.prompt) for row in rows]
    found: list[Any] = [None] * len(rows)

    def answer(batch: Sequence[int]) -> None:
        with progress.share(len(batch), of=len(rows)):
            answers = greedy(model, [rows[index] for index in batch], ends, choose=choose)
        for index, one in zip(batch, answers, strict=True):
            found[index] = one

    for batch in batches_of(lengths, batch_size.now, _cached_tokens(model)):
        batch_size.each(batch, answer)
    return found


@torch.inference_mode()
def greedy(
    model: Any,
    rows: Sequence[Request],
    ends: Container[int],
    stopped: Callable[[list[int]], bool] = lambda tokens: False,
    choose: Choose = likeliest,
) -> list[tuple[list[int], bool]]:
    """(new tokens, whether they were cut off by the budget before an end) of each row.

    Args:
        ends: Tokens that end an answer; they are not part of it.
        stopped: Whether an answer has come to its end for another reason, such as a stop string.
        choose: How the next tokens are chosen.
    """
    lengths = {len(row.prompt) for row in rows}
    longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
    if len(lengths) == 1 or takes_padding(model, longest):
        return _together(model, _Batch(rows, ends, stopped, choose))
    found: dict[int, tuple[list[int], bool]] = {}
    for length in sorted(lengths):
        places = [place for place, row in enumerate(rows) if len(row.prompt) == length]
        alike = _Batch([rows[place] for place in places], ends, stopped, choose)
        found |= dict(zip(places, _together(model, alike), strict=True))
    return [found[place] for place in range(len(rows))]


def _together(model: Any, batch: _Batch) -> list[tuple[list[int], bool]]:
    """The answers of a batch, as `greedy` returns them; transformers prepares, `batch` searches."""
    ids, mask = left_padded([row.prompt for row in batch.rows], pad_id=0)
    with only_ends_inherited(model):
        model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=batch.most,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,  # for `generate` to have one: the mask tells what is padding
            custom_generate=batch.search,
        )
    return [(answer, place in batch.cut) for place, answer in enumerate(batch.answers)]


class _Batch:
    """Rows that are answered together.

    Attributes:
        answers: The new tokens of each row so far.
        cut: The rows, by place, whose budget was spent before an end.
        most: The largest budget: how many steps there are at most.
    """

    def __init__(
        self,
        rows: Sequence[Request],
        ends: Container[int],
        stopped: Callable[[list[int]], bool],
        choose: Choose,
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
        """The step-by-step search that `generate` calls in place of its own.

        Args:
            state: What `generate` hands from step to step: the cache, the mask, the positions.
        """
        left = list(range(len(input_ids)))  # row of the batch -> its place in `rows`
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
        for step in range(self.most):
            ended = len(self.rows) - len(self._unended)
            progress.reach((ended + len(self._unended) * step / self.most) / len(self.rows))
            output = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(output, state)
            chosen = self._choose(output.logits[:, -1].float())
            self._append(left, chosen.tolist())
            if not self._unended:
                break
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
            if len(self._unended) < len(left) and _rows_can_leave(state):
                kept = [row for row, place in enumerate(left) if place in self._unended]
                left = [left[row] for row in kept]
                indices = torch.tensor(kept, device=input_ids.device)
                input_ids, state = input_ids[indices], _of_rows(state, indices)
            inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **state)
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
def only_ends_inherited(model: Any) -> Iterator[None]:
    """Inside, `model.generate` takes nothing from the model's generation_config but its ends."""
    own = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(own, name) for name in ENDS})
    try:
        yield
    finally:
        model.generation_config = own


def not_inherited(model: PreTrainedModel) -> str:
    """What a model's generation_config asks for and greedy answers do without, in words."""
    asked = model.generation_config.to_diff_dict()
    return ", ".join(
        f"{name}={value}"
        for name, value in sorted(asked.items())
        if value and name not in ENDS and not name.startswith(_ABOUT_ITSELF)
    )


def _rows_can_leave(state: dict[str, Any]) -> bool:
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    return is_plain(state.get(cache_name(state))) and all(value.dim() == 2 for value in tensors)


def _of_rows(state: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """What `generate` hands from step to step, of some rows only."""
    state[cache_name(state)].batch_select_indices(rows)
    return {
        name: value[rows] if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }


def _cached_tokens(model: PreTrainedModel) -> int:
    """How many cached tokens take as many numbers as the model has weights.

    While the cache is small, a step's time is spent reading the weights, which all rows of a batch
    share. Beyond this size a step mostly reads and copies the cache: more rows in a batch save
    little and take memory.
    """
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "num_attention_heads", None) is None:
        return sys.maxsize  # a recurrent model keeps a state that does not grow
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return model.num_parameters() // (2 * config.num_hidden_layers * heads * size)
