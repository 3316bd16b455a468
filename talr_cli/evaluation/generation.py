"""Generates answers greedily, ignoring the model's generation_config.

From that file transformers' `generate` takes everything that its caller leaves out: beams,
penalties, bans, forced tokens, lengths. Here only the tokens that end an answer come from it.
Answers can also be sampled (`sampler`).

Knows how tokens are chosen; does not know what is asked, nor how an answer is judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from talr_cli import progress
from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.decoding import (
    ENDS,
    Batch,
    Choose,
    Request,
    Together,
    answer_together,
    choose_likeliest,
    rows_together,
)
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import max_positions
from talr_cli.models.row_batches import make_batches
from talr_cli.models.saving import end_tokens
from talr_cli.models.shape import head_sizes

# Prefixes of settings of a generation_config that are not worth reporting as ignored.
_ABOUT_ITSELF = ("transformers_version", "_", "output_", "return_", "use_cache", "do_sample")


@dataclass(frozen=True)
class Answer:
    """A decoded answer.

    Attributes:
        cut: Whether the answer was cut off because it used up its budget.
        shortened: Whether the model's positions left less room than the budget.
    """

    text: str
    cut: bool
    shortened: bool = False


def make_request(
    renderer: Renderer, example: Example, max_new_tokens: int, most: int | None
) -> Request:
    """The request for a row; its budget is limited to what the prompt leaves of `most` positions.

    The budget is below 1 if the prompt leaves no room for an answer.
    """
    prompt = tuple(renderer.prompt_ids(example.messages, example.tools))
    return Request(prompt, min(max_new_tokens, (most or sys.maxsize) - len(prompt)))


def make_requests(
    model: Any, renderer: Renderer, examples: Sequence[Example], max_new_tokens: int
) -> list[Request]:
    """The request for each row; see `make_request`.

    Raises:
        UserError: A prompt leaves no room for an answer.
    """
    most = max_positions(model.config.to_dict())
    found = [make_request(renderer, one, max_new_tokens, most) for one in examples]
    for example, one in zip(examples, found, strict=True):
        require_room(example, len(one.prompt) + 1, most or sys.maxsize)
    return found


def require_room(example: Example, tokens: int, most: int) -> None:
    """Refuse a row that needs more tokens than the model's `most` positions."""
    if tokens > most:
        raise UserError(
            f"test row {example.id} takes {tokens} tokens or more with its answer, the model has "
            f"{most} positions: shorten or leave out such rows, or use a model with more positions"
        )


def decode_answers(
    renderer: Renderer,
    rows: Sequence[Request],
    found: Sequence[tuple[list[int], bool]],
    max_new_tokens: int,
) -> list[Answer]:
    """Decode answers; `found` are their tokens, as `generate_batch` returns them."""
    return [
        Answer(renderer.decode(tokens), cut, row.max_new_tokens < max_new_tokens)
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
    """Greedy answers, in the order of `examples`.

    Args:
        batch_size: The most rows in a batch; batches of long rows are smaller, see `make_batches`.
    """
    rows = make_requests(model, renderer, examples, max_new_tokens)
    found = generate_tokens(model, renderer, rows, batch_size)
    return decode_answers(renderer, rows, found, max_new_tokens)


# The batch size of sampled answers. Samples depend on the batches, so it must be the same however
# much memory is free.
SAMPLED_AT_ONCE = 32


def sampler(seed: int, temperature: float = 1.0) -> Choose:
    """Samples tokens from the model's distribution; the same batches and seed give the same."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: torch.Tensor) -> torch.Tensor:
        # One number is drawn for each row, on the CPU: torch.multinomial would draw one for each
        # token of the vocabulary, which there takes longer than a GPU's forward pass. In float64,
        # as the rarest of 150k tokens vanish in a sum of float32; an Apple GPU has none.
        probabilities = (logits / temperature).softmax(-1)
        on_cpu = probabilities.device.type == "mps"
        up_to = (probabilities.cpu() if on_cpu else probabilities).double().cumsum(-1)
        drawn = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
        tokens = torch.searchsorted(up_to, drawn.to(up_to.device) * up_to[:, -1:], right=True)
        return tokens[:, 0].clamp(max=logits.shape[-1] - 1).to(logits.device)

    return choose


@torch.inference_mode()
def generate_tokens(
    model: Any,
    renderer: Renderer,
    rows: Sequence[Request],
    batch_size: BatchSize,
    choose: Choose = choose_likeliest,
) -> list[tuple[list[int], bool]]:
    """The same as `generate_batch`, for any number of rows, in batches of similar lengths."""
    ends = set(end_tokens(model, renderer.end_of_turn))
    lengths = [len(row.prompt) for row in rows]
    found: list[Any] = [None] * len(rows)

    def answer(batch: Sequence[int]) -> None:
        with progress.share(len(batch), of=len(rows)):
            answers = generate_batch(model, [rows[index] for index in batch], ends, choose=choose)
        for index, one in zip(batch, answers, strict=True):
            found[index] = one

    for batch in make_batches(lengths, batch_size.current, _most_cached_tokens(model)):
        batch_size.in_batches(batch, answer)
    return found


@torch.inference_mode()
def generate_batch(
    model: Any,
    rows: Sequence[Request],
    ends: Container[int],
    stopped: Callable[[list[int]], bool] = lambda tokens: False,
    choose: Choose = choose_likeliest,
) -> list[tuple[list[int], bool]]:
    """For each row (the new tokens, whether they were cut off by the budget).

    Args:
        ends: Tokens that end an answer; they are not part of it.
        stopped: Whether an answer has ended for another reason, such as a stop string.
        choose: Chooses the next tokens.
    """
    longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
    width = max(len(row.prompt) for row in rows) + max(row.max_new_tokens for row in rows)
    together = rows_together(model, longest, width)
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        kind = {Together.ANY: 0, Together.SAME_LENGTH: len(row.prompt)}.get(together, place)
        groups.setdefault(kind, []).append(place)
    found: dict[int, tuple[list[int], bool]] = {}
    for _, places in sorted(groups.items()):
        batch = Batch([rows[place] for place in places], ends, stopped, choose)
        answers = answer_together(model, batch, cached=together > Together.UNCACHED)
        found |= dict(zip(places, answers, strict=True))
    return [found[place] for place in range(len(rows))]


def ignored_settings(model: PreTrainedModel) -> str:
    """The settings of a model's generation_config that greedy answers ignore, as text."""
    asked = model.generation_config.to_diff_dict()
    return ", ".join(
        f"{name}={value}"
        for name, value in sorted(asked.items())
        if value and name not in ENDS and not name.startswith(_ABOUT_ITSELF)
    )


def _most_cached_tokens(model: PreTrainedModel) -> int:
    """How many tokens of keys and values are as many numbers as the model has weights.

    While the cache is smaller, a step mostly reads the weights, which all rows of a batch share.
    Beyond this size a step mostly reads and copies the cache, so that more rows in a batch save
    little time and take memory.
    """
    sizes = head_sizes(model.config.get_text_config(decoder=True))
    if not sizes:
        return sys.maxsize  # the state of a recurrent model does not grow
    return model.num_parameters() // (2 * sum(keys * width for _, keys, width in sizes))
