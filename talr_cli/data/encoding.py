"""Encodes rows as token ids for training, and reports the rows that cannot be used.

Knows how a row may fail: it is too long, or the template refuses it or drops part of its answer.
Does not know how a row is rendered (`rendering.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from talr_cli import progress
from talr_cli.data.base import Dataset, Example
from talr_cli.data.rendering import Rendered, Renderer, RowError
from talr_cli.data.rows import to_skip
from talr_cli.data.template_text import RowText
from talr_cli.errors import UserError
from talr_cli.models.tokenizer import IGNORED

T = TypeVar("T")
log = logging.getLogger(__name__)

BATCH_CHARACTERS = 1 << 18  # the most that are tokenized in one call, unless one row has more
NAMED = 20  # the most rows that a message names
SHOWN = 60  # the most characters of a text in a message


class TokenRows(Sequence[Rendered]):
    """Rows as tokens, in eight bytes a token with its label: lists of Python's take fifty.

    What `Rendered` says beside them of a row's text is not kept.

    Attributes:
        ids, labels: Those of all rows, one row behind the other.
        bounds: Where each row begins, and where the last one ends.
    """

    def __init__(self, rows: Iterable[Rendered] = ()) -> None:
        self.ids, self.labels, self.bounds = array("i"), array("i"), array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, row: Rendered) -> None:
        self.ids.extend(row.input_ids)
        self.labels.extend(row.labels)
        self.bounds.append(len(self.ids))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        if isinstance(place, range):
            return TokenRows(self[one] for one in place)
        row = slice(self.bounds[place], self.bounds[place + 1])
        return Rendered(self.ids[row].tolist(), self.labels[row].tolist())

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return [end - begin for begin, end in itertools.pairwise(self.bounds)]

    @property
    def target_counts(self) -> list[int]:
        """The number of targets of each row."""
        import numpy as np

        targets = np.flatnonzero(np.frombuffer(self.labels, np.int32) != IGNORED)
        before = np.searchsorted(targets, np.frombuffer(self.bounds, np.int64))
        return np.diff(before).tolist()

    def shuffled(self, seed: int) -> TokenRows:
        """The rows in an order by `seed`."""
        order = [*range(len(self))]
        random.Random(seed).shuffle(order)
        return TokenRows(self[one] for one in order)


def as_token_rows(rows: Sequence[Rendered]) -> TokenRows:
    """The rows as `TokenRows`, which they mostly are."""
    return rows if isinstance(rows, TokenRows) else TokenRows(rows)


@dataclass(frozen=True)
class Encoded:
    """Rows ready for training, and what is remarkable about the others.

    Attributes:
        rows: The rows that can be trained on.
        cut: How many of them were cut to the maximum length.
        without_target: Ids of rows whose targets were all cut off, with their lengths.
        refused: Ids of rows that the template cannot render completely, with the reasons.
        added: Ids of rows to whose answers the template adds text, with that text.
        tokenized_apart: How many rows have a token that would span the end of the prompt.
        special: Ids of rows whose texts have a token that only a template should write, with it.
        dropped: Ids of rows of whose context the template drops a part, with that part.
        unknown: Ids of rows with tokens for texts that the tokenizer does not know, and how many.
    """

    rows: TokenRows
    cut: int
    without_target: list[str]
    refused: list[str]
    added: list[str]
    tokenized_apart: int
    special: list[str]
    dropped: list[str]
    unknown: list[str]


def encode_each(examples: Iterable[Example], renderer: Renderer) -> Iterator[Rendered | RowError]:
    """What `renderer.encode` returns or raises for each row.

    The texts of many rows are tokenized in one call, which uses all cores.
    """
    waiting: list[RowText | RowError] = []
    size = 0
    for example in examples:
        row = _result_or_error(renderer.render, example)
        own = 0 if isinstance(row, RowError) else sum(map(len, row.parts))
        if size + own > BATCH_CHARACTERS:
            yield from _encode_together(waiting, renderer)
            waiting, size = [], 0
        waiting.append(row)
        size += own
    yield from _encode_together(waiting, renderer)


def _encode_together(
    rows: Sequence[RowText | RowError], renderer: Renderer
) -> Iterator[Rendered | RowError]:
    texts = [text for row in rows if isinstance(row, RowText) for text in row.parts]
    known: dict[str, list[int]] = {}
    if texts and len(rows) > 1:
        # If they cannot be tokenized together, each row shows whether it can be alone.
        with suppress(RowError):
            known = dict(zip(texts, renderer.tokenize(texts), strict=True))
    for row in rows:
        if isinstance(row, RowError):
            yield row
        else:
            yield _result_or_error(renderer.encode_text, row, known)


def _result_or_error(make: Callable[..., T], *given: Any) -> T | RowError:
    try:
        return make(*given)
    except RowError as error:
        return error


def encode_all(examples: Sequence[Example], renderer: Renderer, max_length: int) -> Encoded:
    """Render rows and cut them to `max_length` tokens."""
    rows = TokenRows()
    cut = apart = 0
    without_target, refused, added, special, dropped, unknown = [], [], [], [], [], []
    shown = progress.each("rendering rows", examples)
    for example, rendered in zip(shown, encode_each(examples, renderer), strict=True):
        if isinstance(rendered, RowError):
            refused.append(f"{example.id}: {rendered}")
            continue
        if rendered.lost:
            several = " of its answers (dataset.train_on=last trains one)" if example.turns else ""
            lost = f"the chat template drops {_short(rendered.lost)}{several}"
            refused.append(f"{example.id}: {lost}")
            continue
        length = len(rendered.input_ids)
        shorter = rendered.cut(max_length)
        if not shorter.targets:
            without_target.append(f"{example.id} ({length} tokens)")
            continue
        rows.append(shorter)
        cut += length > max_length
        apart += rendered.tokenized_apart
        if rendered.special:
            special.append(f"{example.id}: {_short(rendered.special)}")
        if rendered.dropped:
            dropped.append(f"{example.id}: {_short(rendered.dropped)}")
        if rendered.unknown:
            unknown.append(f"{example.id} ({rendered.unknown} of {length} tokens)")
        if rendered.added:
            added.append(f"{example.id}: {_short(rendered.added)}")
    return Encoded(rows, cut, without_target, refused, added, apart, special, dropped, unknown)


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def encode_training_rows(
    examples: Sequence[Example],
    renderer: Renderer,
    max_length: int,
    what: str = "training rows",
    skip: bool | None = False,
    max_bad_share: float = 0.0,
    limit: str = "trainer.max_length",
) -> TokenRows:
    """The rows as tokens; logs what is cut, added or left out.

    Args:
        what: What the rows are called in messages.
        skip: Whether rows that cannot be trained on are left out, up to `max_bad_share` of all;
            None: they are not, and no config value would change that.
        limit: The name of the config value `max_length`, for messages.

    Raises:
        UserError: There are rows that cannot be trained on, or none that can.
    """
    encoded = encode_all(examples, renderer, max_length)
    total = len(examples)
    problems = []
    if encoded.refused:
        problems.append(
            f"{len(encoded.refused)} of {total} {what} cannot be rendered whole: "
            f"{_named(encoded.refused, 3)}; change the rows, or give another template with "
            "model.chat_template=FILE or model.template_arguments"
        )
    if encoded.without_target:
        problems.append(
            f"{len(encoded.without_target)} of {total} {what} have no target token within "
            f"{limit}={max_length}: {_named(encoded.without_target, NAMED)}; raise {limit}"
        )
    bad = len(encoded.refused) + len(encoded.without_target)
    if bad and not (skip and bad <= max_bad_share * total):
        other = "" if skip is None else to_skip(bad, total)
        raise UserError(f"{'; '.join(problems)}{other}")
    for problem in problems:
        log.warning("%s. Left out", problem)
    _warn(encoded, total, what, f"{limit}={max_length}")
    if total and not encoded.rows:
        raise UserError(f"none of {total} {what} can be trained")
    return encoded.rows


def encode_dataset_rows(
    dataset: Dataset,
    examples: Sequence[Example],
    renderer: Renderer,
    max_length: int,
    what: str = "training rows",
    limit: str = "trainer.max_length",
) -> TokenRows:
    """The same as `encode_training_rows`, with the dataset's config values about bad rows."""
    on_bad_row = getattr(dataset, "on_bad_row", None)
    return encode_training_rows(
        examples,
        renderer,
        max_length,
        what,
        skip=None if on_bad_row is None else on_bad_row == "skip",
        max_bad_share=getattr(dataset, "max_bad_share", 0.0),
        limit=limit,
    )


def digest(*parts: TokenRows) -> str:
    """SHA-256 (hex) of the tokens and labels of the rows, in their order."""
    import numpy as np

    found = hashlib.sha256()
    for rows in parts:
        ids, labels = (np.frombuffer(one, np.int32) for one in (rows.ids, rows.labels))
        for begin, end in itertools.pairwise(rows.bounds):
            row = ([end - begin], ids[begin:end], labels[begin:end])
            found.update(np.concatenate(row, dtype=np.int64).tobytes())
    return found.hexdigest()


def _warn(encoded: Encoded, total: int, what: str, limit: str) -> None:
    """Warn about remarkable rows that are nevertheless trained on."""
    if encoded.cut:
        log.warning(
            "%d of %d %s are cut to %s: the end of what they teach is lost",
            *(encoded.cut, total, what, limit),
        )
    if encoded.added:
        log.warning(
            "the chat template adds text to the answers of %d of %d %s, which is trained too; the "
            "first is %s. Where that is not wanted: model.template_arguments (such as "
            "{enable_thinking: false}) or model.chat_template=FILE",
            *(len(encoded.added), total, what, encoded.added[0]),
        )
    if encoded.tokenized_apart:
        log.warning(
            "in %d of %d %s a token would reach over the end of the prompt; prompt and answer are "
            "tokenized apart there, as they are in generation",
            *(encoded.tokenized_apart, total, what),
        )
    if encoded.dropped:
        log.warning(
            "the chat template drops a part of %d of %d %s, which the model thus does not see; the "
            "first is %s. model.chat_template=FILE gives a template that knows tools and roles",
            *(len(encoded.dropped), total, what, encoded.dropped[0]),
        )
    if encoded.unknown:
        log.warning(
            "%d of %d %s hold texts that the tokenizer does not know, which the model reads and "
            "learns as one and the same unknown token; the first is %s",
            *(len(encoded.unknown), total, what, encoded.unknown[0]),
        )
    if encoded.special:
        log.warning(
            "in %d of %d %s the texts hold tokens that only a chat template should write, and that "
            "are read as such; the first is %s. Rows that have a template already are given a "
            "second one: take it out of them",
            *(len(encoded.special), total, what, encoded.special[0]),
        )


def _named(rows: Sequence[str], most: int) -> str:
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(rows[:most]) + more
