"""Example -> token ids, through the model's chat template: the same for training and evaluation.

Knows which tokens are targets: what the assistant says in its trained turns and the token that
ends each of them, nothing else. Where a turn ends is learned from the template itself: from what it
writes after two different answers. Each row is checked for a template that changes its answer.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from talr_cli.data.base import Example, Message
from talr_cli.errors import UserError, reason_of
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource
from talr_cli.models.tokenizer import IGNORED, load_tokenizer
from talr_cli.scorers.thoughts import marks_among

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_LOOKS_SPECIAL = re.compile(r"<[^\s<>]{1,60}>|\[/?[A-Z_]{1,30}\]")
_SETTING = (
    "set model.template_arguments (e.g. {enable_thinking: false}) or model.chat_template=FILE"
)


class RowError(ValueError):
    """A row that the chat template does not render; the message is the reason."""


@dataclass(frozen=True)
class Rendered:
    """input_ids[T] and labels[T]; labels are -100 on the prompt, the input id on every target.

    Attributes:
        lost: The first part of the row's answer that the template drops.
        added: What the template writes that is not in the row's answer.
        apart: Whether a token would reach across the end of the prompt, so that prompt and answer
            were tokenized apart.
        special: A token in the row's texts that only a template should write.
    """

    input_ids: list[int]
    labels: list[int]
    lost: str = ""
    added: str = ""
    apart: bool = False
    special: str = ""

    @property
    def targets(self) -> list[int]:
        """The trained token ids."""
        return [label for label in self.labels if label != IGNORED]

    def cut(self, length: int) -> Rendered:
        """The first `length` tokens."""
        return replace(self, input_ids=self.input_ids[:length], labels=self.labels[:length])


class Renderer:
    """A tokenizer with its chat template and the template's arguments."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.arguments = arguments
        self._special_texts = frozenset(self._specials())
        unseen = set(tokenizer.all_special_tokens) | self._special_texts
        self.thought_marks = marks_among(unseen)
        self._mark_ids = set(self._ids_of(self.thought_marks))
        self._unseen_ids = set(self._ids_of(unseen - self.thought_marks))
        try:
            self._after, self._ending = self._turn_end()
            # Where the template writes no end of a turn, the tokenizer's end token is it.
            self._appended = [] if self._ending else [tokenizer.eos_token_id]
            hello = Example("", ({"role": "user", "content": "Hi"},), "Hello")
            encoded = self.encode(hello)
            if not self._tokens(hello.completion):
                raise RowError("the tokenizer has no tokens for a text")
        except RowError as error:
            raise UserError(f"this chat template cannot be used: {error}") from error
        self.end_of_turn: int = encoded.targets[-1]
        self._warn_of_beginnings(hello, encoded)

    def _warn_of_beginnings(self, hello: Example, encoded: Rendered) -> None:
        """Warn where prompts lack the tokenizer's first token, or a generation prompt."""
        bos = self.tokenizer.bos_token_id
        if bos is not None and self.tokenizer("Hi").input_ids[:1] == [bos] != encoded.input_ids[:1]:
            log.warning(
                "the chat template begins without %r, which the tokenizer puts before every text: "
                "a model that was trained with it may be lost without it",
                self.tokenizer.bos_token,
            )
        bare = self._text(hello.messages, ())
        if encoded.added and self.prompt(hello.messages) == bare:
            log.warning(
                "the chat template has no generation prompt: %r is left to the model, as a part of "
                "its answers; model.chat_template=FILE gives another template",
                encoded.added.partition(" ... ")[0],
            )

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The text the model answers to, up to and including the assistant's header."""
        return self._text(messages, tools, add_generation_prompt=True)

    def _text(self, messages: Sequence[Message], tools: Sequence[Any], **options: Any) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                **options,
                **self.arguments,
            )
        except Exception as error:  # a template may divide by zero, call itself without end, ...
            raise RowError(f"the chat template refuses it: {reason_of(error)}") from error
        if not isinstance(text, str):
            raise TypeError(f"the chat template gave {type(text).__name__}, not text")
        return text

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """The tokens that generation starts from."""
        return self._tokens(self.prompt(messages, tools))

    def _tokens(self, text: str) -> list[int]:
        # The template writes a BOS itself where the model wants one.
        try:
            return self.tokenizer(text, add_special_tokens=False).input_ids
        except (TypeError, UnicodeError) as error:
            raise RowError("it is not valid Unicode") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, of which there is no class here
                raise
            raise RowError(f"the tokenizer fails on it: {reason_of(error)}") from error

    def encode(self, example: Example) -> Rendered:
        """A training row: the conversation's tokens, labels on the trained turns.

        The text is tokenized as a whole. But generation starts from the tokens of the prompt: where
        a token would reach across the prompt's end, what comes before and after is tokenized apart.

        Raises:
            RowError: The template does not render this row.
        """
        spans, whole = self._spans(example)
        ids: list[int] = []
        labels: list[int] = []
        apart, read = False, 0
        for start, end in spans:
            for cut, is_target in ((start, False), (end, True)):
                longer = self._tokens(whole[:cut])
                if longer[: len(ids)] != ids:
                    longer = ids + self._tokens(whole[read:cut])
                    apart = True
                new = longer[len(ids) :]
                labels += new if is_target else [IGNORED] * len(new)
                ids, read = longer, cut
        ids, labels = ids + self._appended, labels + self._appended
        lost, added = self._changes(example, whole[spans[-1][0] : spans[-1][1]])
        return Rendered(ids, labels, lost, added, apart, self._special_in(example))

    def _special_in(self, example: Example) -> str:
        """The first token in a row's texts that only a template should write."""
        texts = (str(message["content"]) for message in example.conversation)
        found = (token for text in texts for token in _LOOKS_SPECIAL.findall(text))
        return next((token for token in found if token in self._special_texts), "")

    def _spans(self, example: Example) -> tuple[list[tuple[int, int]], str]:
        """([(start, end) of each trained turn, its end token included], the whole text)."""
        conversation = example.conversation
        whole = self._text(conversation, example.tools)
        spans = []
        for turn in (*example.turns, len(example.messages)):
            prompt = self.prompt(conversation[:turn], example.tools)
            if not whole.startswith(prompt):
                raise RowError(
                    "the chat template does not continue its own generation prompt, so training "
                    f"and evaluation would differ: {_SETTING}"
                )
            if turn < len(example.messages):
                end = self._end_within(whole, len(prompt), example, turn)
            elif whole.endswith(self._after) and len(whole) - len(self._after) >= len(prompt):
                end = len(whole) - len(self._after) + len(self._ending)
            else:  # the template may end a tool call in another way
                end = _last_of(self._specials(), whole, len(prompt))
            spans.append((len(prompt), end))
        return spans, whole

    def _end_within(self, whole: str, start: int, example: Example, turn: int) -> int:
        """Where an earlier turn ends, its end token included: where it would end as the last turn.

        A template may end earlier turns by another token, or leave out the thought before them.
        Then the turn ends with the first special token after the answer.
        """
        conversation = example.conversation
        try:
            as_last = self._text(conversation[: turn + 1], example.tools)
        except RowError:  # the template may want a tool call's result
            as_last = ""
        end = _last_of(self._specials(), as_last, start)
        if self._ending and start < end and whole.startswith(as_last[:end]):
            return end
        content = conversation[turn]["content"].strip()
        begin = whole.find(content, self._header_end(whole, start, example, turn))
        after = begin + len(content)
        ends = [(at, token) for token in self._specials() if (at := whole.find(token, after)) >= 0]
        if not (self._ending and content and begin >= 0 and ends):
            raise RowError(
                "an earlier answer of it, which is to be trained too, is not in the chat "
                "template's text, or has no end there: model.chat_template=FILE gives another"
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
            alone = self._text([*example.messages[:turn], bare], example.tools)
        except RowError:
            return start
        begin = alone.rfind(content, start, len(alone) - len(self._after))
        return begin if begin > start and whole.startswith(alone[:begin]) else start

    def _turn_end(self) -> tuple[str, str]:
        """(what the template writes after an answer, the part of that which is trained).

        Many templates write white space after the end token; generation stops before it.
        """
        user: Message = {"role": "user", "content": "Hi"}
        prompt = self.prompt([user])
        one, two = (
            self._text([user, {"role": "assistant", "content": answer}], ())
            for answer in ("Hello", "Good day")
        )
        if not (one.startswith(prompt) and two.startswith(prompt)):
            raise RowError(
                "it does not continue its own generation prompt, so training and evaluation "
                f"would differ: {_SETTING}"
            )
        if one == two:
            raise RowError("it leaves out what a message says where that is a text")
        length = 0
        while length < len(one) and one[-1 - length] == two[-1 - length]:
            length += 1
        after = one[len(one) - length :]
        # The first special tokens only: Phi-3 writes `<|end|>`, and behind it the text's own end.
        return after, after[: _first_run_of(self._specials(), after)]

    def _specials(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        named = {str(token) for token in added if token.special and str(token).strip()}
        return sorted(named | set(self.tokenizer.all_special_tokens))

    def _changes(self, example: Example, target: str) -> tuple[str, str]:
        """(lost, added) of `Rendered`; differences in white space do not count."""
        if self._ending:
            target = target.removesuffix(self._ending)
        rendered = _without_space(target)
        reply = example.reply_fields
        parts = [example.completion, reply.get("reasoning_content") or reply.get("thinking") or ""]
        for call in reply.get("tool_calls") or ():
            parts.append(call["function"]["name"])
        for part in parts:
            if _without_space(part) not in rendered:
                return part.strip(), ""
        if reply or rendered == _without_space(example.completion):
            return "", ""
        return "", target.replace(example.completion.strip(), " ... ").strip()

    def answer(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens, up to the end of the turn."""
        ends = (self.end_of_turn, self.tokenizer.eos_token_id)
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return self.text_of(tokens[:end])

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens without the special ones, but for those that are around a thought."""
        ids = list(tokens)
        if self._mark_ids.isdisjoint(ids):
            return str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return str(self.tokenizer.decode([one for one in ids if one not in self._unseen_ids]))

    def _ids_of(self, tokens: Iterable[str]) -> list[int]:
        tokenizer: Any = self.tokenizer
        return tokenizer.convert_tokens_to_ids(list(tokens))

    def marked(self, rendered: Rendered) -> str:
        """The row as text, the trained tokens between ⟦ and ⟧."""
        pieces, start = [], 0
        for position in range(1, len(rendered.labels) + 1):
            trained = rendered.labels[start] != IGNORED
            if (
                position == len(rendered.labels)
                or (rendered.labels[position] != IGNORED) != trained
            ):
                text = str(self.tokenizer.decode(rendered.input_ids[start:position]))
                pieces.append(f"⟦{text}⟧" if trained else text)
                start = position
        return "".join(pieces)


def _last_of(tokens: Sequence[str], text: str, start: int) -> int:
    """The end of the last of the tokens in the text; `start` if there is none."""
    ends = [found + len(token) for token in tokens if (found := text.rfind(token, start)) >= start]
    return max(ends, default=start)


def _first_run_of(tokens: Sequence[str], text: str) -> int:
    """The end of the first of the tokens in the text, or of those that stand right behind it."""
    starts = [(found, -len(token)) for token in tokens if (found := text.find(token)) >= 0]
    if not starts:
        return 0
    end = min(starts)[0] - min(starts)[1]
    while following := max((len(one) for one in tokens if text.startswith(one, end)), default=0):
        end += following
    return end


def _without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)


def load_renderer(source: ModelSource, config: ModelConfig) -> Renderer:
    """The renderer of a model, by its `model` config: the same for training and evaluation."""
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
