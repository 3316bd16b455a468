"""Example -> token ids, through the model's chat template: the same for training and evaluation.

Knows which tokens are targets: the completion and the token that ends the turn, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.data.base import Example, Message
from talr_cli.errors import UserError
from talr_cli.models.sources import ModelSource
from talr_cli.models.tokenizer import IGNORED, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rendered:
    """input_ids[T] and labels[T]; labels are -100 on the prompt, the input id on every target."""

    input_ids: list[int]
    labels: list[int]

    @property
    def targets(self) -> list[int]:
        """The trained token ids."""
        return [label for label in self.labels if label != IGNORED]


class Renderer:
    """A tokenizer with its chat template and the template's arguments."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.arguments = arguments
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = special | set(tokenizer.all_special_ids)
        self.end_of_turn = self._end_of_turn()

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text the model answers to, up to and including the assistant's header."""
        return self._text(list(messages), add_generation_prompt=True)

    def _text(self, messages: list[Message], **options: Any) -> str:
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, **options, **self.arguments
        )
        if not isinstance(text, str):
            raise TypeError(f"the chat template gave {type(text).__name__}, not text")
        return text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        # The template writes a BOS itself where the model wants one.
        return self.tokenizer(self.prompt(messages), add_special_tokens=False).input_ids

    def encode(self, example: Example) -> Rendered:
        """A training row: prompt tokens, then completion tokens, then the end of the turn.

        The two parts are tokenized apart, because at inference the model sees the prompt alone.
        """
        prompt = self.prompt_ids(example.messages)
        completion = self._completion_ids(example.messages, example.completion)
        return Rendered(prompt + completion, [IGNORED] * len(prompt) + completion)

    def _completion_ids(self, messages: Sequence[Message], completion: str) -> list[int]:
        prompt = self.prompt(messages)
        answered = [*messages, {"role": "assistant", "content": completion}]
        whole = self._text(answered)
        if not whole.startswith(prompt):
            raise UserError(
                "the chat template does not continue its own generation prompt, so training and "
                "evaluation would differ: set model.template_arguments (e.g. "
                "{enable_thinking: false}) or use another template"
            )
        ids = self.tokenizer(whole[len(prompt) :], add_special_tokens=False).input_ids
        # Templates write white space after the turn's end; generation stops before it.
        ends = [position for position, token in enumerate(ids) if token in self._special_ids]
        if not ends:
            return [*ids, self.tokenizer.eos_token_id]
        return ids[: ends[-1] + 1]

    def _end_of_turn(self) -> int:
        return self._completion_ids([{"role": "user", "content": "Hi"}], "Hello")[-1]

    def marked(self, rendered: Rendered) -> str:
        """The row as text, the trained tokens between ⟦ and ⟧."""
        first = next(i for i, label in enumerate(rendered.labels) if label != IGNORED)
        prompt, targets = rendered.input_ids[:first], rendered.input_ids[first:]
        return f"{self.tokenizer.decode(prompt)}⟦{self.tokenizer.decode(targets)}⟧"


def load_renderer(source: ModelSource, config: Any) -> Renderer:
    """The renderer of a model, by its `model` config: the same for training and evaluation."""
    return Renderer(load_tokenizer(source, config), dict(config.template_arguments))


@dataclass(frozen=True)
class Encoded:
    """Rows ready for training, how many of them were cut, and which were left out."""

    rows: list[Rendered]
    cut: int
    without_target: list[str]


def encode_all(examples: Sequence[Example], renderer: Renderer, max_length: int) -> Encoded:
    """Render rows, cut to `max_length` tokens; one whose targets are all cut off is left out."""
    rows, cut, without_target = [], 0, []
    for example in examples:
        rendered = renderer.encode(example)
        length = len(rendered.input_ids)
        if length > max_length:
            rendered = Rendered(rendered.input_ids[:max_length], rendered.labels[:max_length])
            cut += 1
        if rendered.targets:
            rows.append(rendered)
        else:
            without_target.append(f"{example.id} ({length} tokens)")
    return Encoded(rows, cut - len(without_target), without_target)
