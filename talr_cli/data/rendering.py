"""Renders examples to token ids by the model's chat template, for training and evaluation alike.

Knows which tokens are targets: those of the assistant's answers in the turns to train on, and the
token that ends each of these turns. Where a turn ends is found out from the template itself, by
what it writes after two different answers. For each row it is checked whether the template changes
the answer.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from talr_cli.data.base import Example, Message
from talr_cli.data.row_tokens import encode_row
from talr_cli.data.template_text import (
    RowText,
    alike,
    end_of_last,
    find_answer_changes,
    find_dropped_context,
    find_special_token,
    first_difference,
    turn_end,
)
from talr_cli.errors import UserError, reason_of
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource
from talr_cli.models.tokenizer import IGNORED, load_tokenizer
from talr_cli.scorers.thoughts import thought_marks_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_OTHER = "model.chat_template=FILE gives another"
_ONLY_LAST = "train the last answer alone (dataset.train_on=last), or set model.chat_template=FILE"
_REWRITES = "writes an earlier answer, which is trained too, otherwise than it asks for it"
_UNLIKE = "does not continue its own generation prompt, so training and evaluation would differ"


class RowError(ValueError):
    """A row cannot be rendered by the chat template; the message says why."""


@dataclass(frozen=True)
class Rendered:
    """A row as token ids.

    Attributes:
        input_ids: [T].
        labels: [T]: the input id on every target, -100 elsewhere.
        lost: The first part of the trained answers that the template drops.
        added: What the template adds to a trained answer.
        tokenized_apart: Whether prompt and answer were tokenized separately, because a token would
            have spanned the end of the prompt.
        special: A token in the row's texts that only a template should write.
        dropped: The first part of the row's context that the template drops.
        unknown: How many tokens stand for texts that the tokenizer does not know.
    """

    input_ids: list[int]
    labels: list[int]
    lost: str = ""
    added: str = ""
    tokenized_apart: bool = False
    special: str = ""
    dropped: str = ""
    unknown: int = 0

    @property
    def targets(self) -> list[int]:
        """The token ids of the targets."""
        return [label for label in self.labels if label != IGNORED]

    def cut(self, length: int) -> Rendered:
        """The row cut to its first `length` tokens."""
        return replace(self, input_ids=self.input_ids[:length], labels=self.labels[:length])


class Renderer:
    """A tokenizer with its chat template and the template's arguments."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.arguments = arguments
        added = [one for one in tokenizer.added_tokens_decoder.values() if str(one).strip()]
        special = {str(one) for one in added if one.special}
        unseen = self._specials = frozenset(special.union(tokenizer.all_special_tokens))
        self.thought_marks = thought_marks_in(unseen)
        self._mark_ids = set(self._ids_of(self.thought_marks))
        self._unseen_ids = set(self._ids_of(unseen - self.thought_marks))
        try:
            hello, self._after = self._answered()
            # The token that ends a turn is special, also if the tokenizer does not say so.
            starts_after = self._after.lstrip().startswith
            self._specials |= {str(one) for one in added if starts_after(str(one))}
            self._ending = turn_end(self._after, self._specials, tokenizer.eos_token)
            self._behind = self._after[len(self._ending) :]  # such as white space; not trained
            # If the template does not end a turn, the tokenizer's end token is appended.
            self._appended = [] if self._ending else [tokenizer.eos_token_id]
            encoded = self.encode(hello)
            if not self.tokenize(hello.completion):
                raise RowError("the tokenizer has no tokens for a text")
            if encoded.targets[-1] not in self._ids_of(self._specials):
                why = f"the tokenizer cuts {self._ending!r}, the end of answers, into pieces"
                raise RowError(f"{why}: set split_special_tokens=false in tokenizer_config.json")
        except RowError as error:
            raise UserError(f"this chat template cannot be used: {error}") from error
        self.end_of_turn: int = encoded.targets[-1]
        self._warn_of_beginnings(hello, encoded)

    def _warn_of_beginnings(self, hello: Example, encoded: Rendered) -> None:
        """Warn if prompts lack the tokenizer's BOS token, or the template a generation prompt."""
        bos = self.tokenizer.bos_token_id
        if bos is not None and self.tokenizer("Hi").input_ids[:1] == [bos] != encoded.input_ids[:1]:
            log.warning(
                "the chat template begins without %r, which the tokenizer puts before every text: "
                "a model that was trained with it may be lost without it",
                self.tokenizer.bos_token,
            )
        bare = self._render(hello.messages, ())
        if encoded.added and self.prompt(hello.messages) == bare:
            log.warning(
                "the chat template has no generation prompt: %r is left to the model, as a part of "
                "its answers; model.chat_template=FILE gives another template",
                encoded.added.partition(" ... ")[0],
            )

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The text of a prompt, up to and including the assistant's header."""
        return self._render(messages, tools, add_generation_prompt=True)

    def _render(self, messages: Sequence[Message], tools: Sequence[Any], **options: Any) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                **options,
                **self.arguments,
            )
        except Exception as error:  # a template may raise anything, such as ZeroDivisionError
            raise RowError(f"the chat template refuses it: {reason_of(error)}") from error
        if not isinstance(text, str):
            raise TypeError(f"the chat template gave {type(text).__name__}, not text")
        return text

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """The token ids of a prompt, from which generation starts."""
        return self.tokenize(self.prompt(messages, tools))

    def tokenize(self, text: Any) -> Any:
        """The token ids of a text, or of each of a list of texts."""
        # If the model wants a BOS token, the template writes it.
        try:
            return self.tokenizer(
                text, add_special_tokens=False, return_attention_mask=False
            ).input_ids
        except (TypeError, UnicodeError) as error:
            raise RowError("it is not valid Unicode") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, whose class cannot be imported
                raise
            raise RowError(f"the tokenizer fails on it: {reason_of(error)}") from error

    def encode(self, example: Example) -> Rendered:
        """Encode a row for training: the conversation's tokens, with labels on the trained turns.

        Raises:
            RowError: The template cannot render this row.
        """
        return self.encode_text(self.render(example), {})

    def encode_text(self, row: RowText, known: Mapping[str, list[int]]) -> Rendered:
        """As `encode`; `known` has the tokens of some texts."""
        ids, labels, apart = encode_row(row, known, self.tokenize)
        written = row.text.count(self.tokenizer.unk_token or "\0")  # GPT-2's also ends texts
        unknown = max(0, ids.count(self.tokenizer.unk_token_id) - written)
        ids, labels = ids + self._appended, labels + self._appended
        lost, added = find_answer_changes(row, self._ending, self._specials)
        special = find_special_token(row.example, self._specials)
        dropped = find_dropped_context(row.example, row.text)
        return Rendered(ids, labels, lost, added, apart, special, dropped, unknown)

    def render(self, example: Example) -> RowText:
        """The row as the template writes it."""
        conversation = example.conversation
        whole = self._render(conversation, example.tools)
        spans = []
        for turn in (*example.turns, len(example.messages)):
            prompt = self.prompt(conversation[:turn], example.tools)
            if not whole.startswith(prompt):
                is_last = turn == len(example.messages)
                what, advice = (_UNLIKE, self._advice()) if is_last else (_REWRITES, _ONLY_LAST)
                difference = first_difference(prompt, whole)
                raise RowError(f"the chat template {what} ({difference}): {advice}")
            if turn < len(example.messages):
                end = self._earlier_turn_end(whole, len(prompt), example, turn)
            elif whole.endswith(self._after) and len(whole) - len(self._after) >= len(prompt):
                end = len(whole) - len(self._after) + len(self._ending)
            else:  # the template may end a tool call differently
                end = end_of_last(self._specials, whole.removesuffix(self._behind), len(prompt))
            spans.append((len(prompt), end))
        return RowText(example, whole, spans, self._specials)

    def _earlier_turn_end(self, whole: str, start: int, example: Example, turn: int) -> int:
        """Where an earlier turn ends, after its end token.

        This is where it would end if it were the last turn. A template may, however, end earlier
        turns by another token, or leave out a thought before them. Then the turn ends with the
        first special token after the answer.
        """
        conversation, specials = example.conversation, self._specials
        try:
            as_last = self._render(conversation[: turn + 1], example.tools)
        except RowError:  # the template may require the result after a tool call
            as_last = ""
        end = end_of_last(specials, as_last.removesuffix(self._behind), start)
        if self._ending and start < end and whole.startswith(as_last[:end]):
            return end
        content = conversation[turn]["content"].strip()
        begin = whole.find(content, self._header_end(whole, start, example, turn))
        after = begin + len(content)
        ends = [(at, token) for token in specials if (at := whole.find(token, after)) >= 0]
        if not (self._ending and content and begin >= 0 and ends):
            raise RowError(
                "an earlier answer of it, which is to be trained too, is not in the chat "
                f"template's text, or has no end there: {_ONLY_LAST}"
            )
        at, token = min(ends, key=lambda end: (end[0], -len(end[1])))
        return at + len(self._ending if whole.startswith(self._ending, at) else token)

    def _header_end(self, whole: str, start: int, example: Example, turn: int) -> int:
        """Where what the template writes before an earlier answer ends; `start` if that is unknown.

        The answer's own text may stand there: gpt-oss writes `final` before every answer.
        """
        content = example.messages[turn]["content"].strip()
        bare: Message = {"role": "assistant", "content": content}
        try:
            alone = self._render([*example.messages[:turn], bare], example.tools)
        except RowError:
            return start
        begin = alone.rfind(content, start, len(alone) - len(self._after))
        return begin if begin > start and whole.startswith(alone[:begin]) else start

    def _answered(self) -> tuple[Example, str]:
        """(an answered "Hi", what the template writes after every answer)."""
        hello = Example("", ({"role": "user", "content": "Hi"},), "Hello")
        prompt = self.prompt(hello.messages)
        row, plain = hello, self._render(hello.conversation, ())
        if not (one := plain).startswith(prompt):
            # A prompt that opens a thought may be continued only by answers that have one.
            row = replace(hello, reply_fields={"reasoning_content": "So."})
            one = self._render(row.conversation, ())
        if not one.startswith(prompt):
            raise RowError(f"it {_UNLIKE} ({first_difference(prompt, plain)}): {self._advice()}")
        two = self._render(replace(row, completion="Good day").conversation, ())
        if one == two:
            raise RowError("it leaves out what a message says where that is a text")
        return row, one[len(one) - alike(one[::-1], two[::-1]) :]

    def _advice(self) -> str:
        """What may make the answers of this template continue its prompts."""
        if "enable_thinking" not in str(self.tokenizer.chat_template):
            return _OTHER
        value = str(not self.arguments.get("enable_thinking", True)).lower()
        return f"++model.template_arguments.enable_thinking={value} may help, and {_OTHER}"

    def decode_answer(self, tokens: Sequence[int]) -> str:
        """Decode generated tokens, up to the end of the turn."""
        ends = (self.end_of_turn, self.tokenizer.eos_token_id)
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return self.decode(tokens[:end])

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens without special ones, except for those that mark a thought."""
        ids = list(tokens)
        if self._mark_ids.isdisjoint(ids):
            return str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return str(self.tokenizer.decode([one for one in ids if one not in self._unseen_ids]))

    def _ids_of(self, tokens: Iterable[str]) -> list[int]:
        tokenizer: Any = self.tokenizer
        return tokenizer.convert_tokens_to_ids(list(tokens))

    def mark_targets(self, rendered: Rendered) -> str:
        """The row as text, with its targets between ⟦ and ⟧."""
        pieces = []
        tokens = zip(rendered.input_ids, rendered.labels, strict=True)
        for trained, stretch in groupby(tokens, key=lambda token: token[1] != IGNORED):
            text = str(self.tokenizer.decode([input_id for input_id, _ in stretch]))
            pieces.append(f"⟦{text}⟧" if trained else text)
        return "".join(pieces)


def load_renderer(source: ModelSource, config: ModelConfig) -> Renderer:
    """The renderer of a model, for training and evaluation alike.

    Raises:
        UserError: The tokenizer or the chat template cannot be used.
    """
    tokenizer, arguments = load_tokenizer(source, config), dict(config.template_arguments)
    taken = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    for name in arguments:
        if name in taken:
            raise UserError(
                f"model.template_arguments.{name} cannot be set: a chat template gets it from the "
                "rows and from talr"
            )
    try:
        return Renderer(tokenizer, arguments)
    except UserError as error:
        raise UserError(f"{source.origin}: {error}") from error
