"""Answers: of every step the likeliest token, whatever the model's generation_config says.

transformers' `generate` takes all that its caller leaves out from that file: beams, penalties,
bans, forced tokens, lengths. Here the tokens that end an answer are all that comes from it. A row
that has ended leaves the batch, so that no step is spent on it. Who asks for it gets answers that
are drawn: see `drawn`.

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

    It is below 1 where the prompt leaves room for no answer.
    """
    prompt = tuple(renderer.prompt_ids(example.messages, example.tools))
    return Request(prompt, min(max_new_tokens, (most or sys.maxsize) - len(prompt)))


def requests(
    model: Any, renderer: Renderer, examples: Sequence[Example], max_new_tokens: int
) -> list[Request]:
    """What each row asks, as `request`.

    Raises:
        UserError: A prompt leaves room for no answer.
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
    """The tokens that were `found` to follow each row as text; `found` as `greedy` returns it."""
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


# Of answers that are drawn: what is drawn depends on the batch, so that no free memory decides it.
DRAWN_AT_ONCE = 32


def drawn(seed: int, temperature: float = 1.0) -> Choose:
    """Draws tokens by their probabilities; the same ones for the same batches and this seed."""
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
    """As `greedy`, of any number of rows, in batches of prompts of like length."""
    ends = set(end_tokens(model, renderer.end_of_turn))
    lengths = [len(row.prompt) for row in rows]
    found: list[Any] = [None] * len(rows)

    def answer(batch: Sequence[int]) -> None:
        answers = greedy(model, [rows[index] for index in batch], ends, choose=choose)
        for index, one in zip(batch, answers, strict=True):
            found[index] = one

    def answer_some(batch: Sequence[int]) -> None:
        with progress.share(len(batch), of=len(rows)):
            answer(batch)

    for batch in batches_of(lengths, batch_size.now, _cached_tokens(model)):
        batch_size.each(batch, answer_some)
    return found


@torch.inference_mode()
def greedy(
    model: Any,
    rows: Sequence[Request],
    ends: Container[int],
    stopped: Callable[[list[int]], bool] = lambda tokens: False,
    choose: Choose = likeliest,
) -> list[tuple[list[int], bool]]:
    """The new tokens of each row, and whether they were cut: whether there is no end to them.

    Args:
        ends: Tokens that end an answer; they are not part of it.
        stopped: Whether an answer has come to its end for another reason, such as a stop string.
        choose: How the next tokens are chosen.
    """
    lengths = {len(row.prompt) for row in rows}
    longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
    if len(lengths) > 1 and not takes_padding(model, longest):
        found: dict[int, tuple[list[int], bool]] = {}
        for length in sorted(lengths):
            places = [place for place, row in enumerate(rows) if len(row.prompt) == length]
            alike = greedy(model, [rows[place] for place in places], ends, stopped, choose)
            found |= dict(zip(places, alike, strict=True))
        return [found[place] for place in range(len(rows))]
    answers: list[list[int]] = [[] for _ in rows]
    unended = set(range(len(rows)))
    cut: set[int] = set()
    most = max(row.max_new_tokens for row in rows)
    ids, mask = left_padded([row.prompt for row in rows], pad_id=0)

    def search(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **state: Any,
    ) -> torch.Tensor:
        """In the place of transformers' own search, which has prepared all of this."""
        left = list(range(len(input_ids)))  # the rows of the batch, by their place in the answers
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
        for step in range(most):
            ended = len(rows) - len(unended)
            progress.reach((ended + len(unended) * step / most) / len(rows))
            output = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(output, state)
            chosen = choose(output.logits[:, -1].float())
            for place, token in zip(left, chosen.tolist(), strict=True):
                if place in unended:
                    if token not in ends:
                        answers[place].append(token)
                    if token in ends or stopped(answers[place]):
                        unended.remove(place)
                    elif len(answers[place]) == rows[place].max_new_tokens:
                        unended.remove(place)
                        cut.add(place)
            if not unended:
                break
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
            if len(unended) < len(left) and _rows_can_leave(state):
                kept = [row for row, place in enumerate(left) if place in unended]
                left = [left[row] for row in kept]
                indices = torch.tensor(kept, device=input_ids.device)
                input_ids, state = input_ids[indices], _of_rows(state, indices)
            inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **state)
        return input_ids

    with only_ends_inherited(model):
        model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=most,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,  # for `generate` to have one: the mask tells what is padding
            custom_generate=search,
        )
    return [(answer, place in cut) for place, answer in enumerate(answers)]


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
    """How many tokens have keys and values as large as the model's weights.

    A batch shares the reading of the weights among its rows, which is nearly all of a step while
    the cache is small. Beyond this the cache is what a step reads, and copies: more rows in a batch
    save little and take memory.
    """
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "num_attention_heads", None) is None:
        return sys.maxsize  # a recurrent model keeps a state that does not grow
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return model.num_parameters() // (2 * config.num_hidden_layers * heads * size)
