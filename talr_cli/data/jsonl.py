"""The user's own data: files, or any dataset of the hub, in the formats of docs/data.md.

Knows splits and scorers; files are read by `files.py`, and the columns of a row by `formats.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli.data import formats, options
from talr_cli.data.base import Example, Splits
from talr_cli.data.duplicates import unique_ids
from talr_cli.data.files import find_files, read_files
from talr_cli.data.hub import read_hub
from talr_cli.data.messages import parse_json_column
from talr_cli.data.rows import BadRows, Row
from talr_cli.data.splitting import sample_rows
from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.choice import normalise_choice
from talr_cli.scorers.text import SCORERS
from talr_cli.scorers.user import UserScorer, scorer_at

log = logging.getLogger(__name__)

_READ = {"id", "group", "category", "answer", "choices"}  # columns that are read here
_SCORER = f"it is one of {', '.join([*SCORERS, 'none'])}, or your own, package.module.function"
_WHERE = "a file, a folder, a pattern such as data/*.jsonl, or a list of these"


@dataclass
class Jsonl:
    """Rows of messages, or of a question and an answer; see docs/data.md.

    Optional columns: "answer" (what the scorer compares with; by default the completion), "choices"
    (for the scorer `choice`, of test rows), "id", "group", "category". Without test rows there is
    nothing to score.

    `scorer` is one of SCORERS, `none`, or the user's own: the dotted path of a function, or an
    object that Hydra has made of {_target_: package.Class, ...}, see `scorers/user.py`. A scorer of
    the user's gets the row without the conversation as reference, with "answer" filled in.
    """

    name: str = value(
        "its name in tables and run directories; empty: that of the training file",
        "",
        identity=False,
    )
    train: Any = value(f"training rows: {_WHERE}", **options.A_FILE)
    test: Any = value(f"rows to score: {_WHERE}", **options.SCORED_FILE)
    validation: Any = value(f"rows for the validation loss: {_WHERE}", **options.A_FILE)
    hub_id: str | None = value(
        "a data set on the hub, for the splits without a file",
        None,
        may_be_empty=False,
    )
    hub_config: str | None = value(
        "the configuration (subset) of that data set, if it has several", None
    )
    revision: str | None = value(**options.REVISION)
    train_split: str = value("the split of it that holds the training rows", "train")
    test_split: str | None = value(
        "the split of it that holds the rows to score, such as test; null: none",
        None,
        identity=False,
    )
    validation_split: str | None = value(
        "the split of it that holds the validation rows; null: none", None
    )
    train_on: str = value(
        "which answers of a row are trained on, unless its messages select them",
        "last",
        choices=("last", "all"),
    )
    train_rows: int | None = value(
        "rows to train on, drawn by data_seed; null: all", **options.SOME_ROWS
    )
    data_seed: int = value(**options.DATA_SEED)
    scorer: Any = value(
        f"{' | '.join([*SCORERS, 'none'])} | your own: package.module.function",
        "exact_match",
        identity=False,
    )
    max_overlap: float = value(**options.MAX_OVERLAP)
    on_bad_row: str = value(**options.ON_BAD_ROW)
    max_bad_share: float = value(**options.MAX_BAD_SHARE)

    unscored = (
        *("train", "validation", "train_split", "validation_split", "train_on", "train_rows"),
        *("data_seed", *options.UNSCORED),
    )

    def __post_init__(self) -> None:
        if self.train is None and self.hub_id is None:
            raise UserError(
                "dataset.train is required: type dataset.train=FILE, or dataset.hub_id=ID"
            )
        if not isinstance(self.scorer, str | UserScorer):
            raise UserError(f"dataset.scorer={self.scorer} is not a name: {_SCORER}")
        for split in ("train", "validation", "test"):
            where = getattr(self, split)
            names = where if isinstance(where, list) else ["" if where is None else where]
            if not (names and all(isinstance(one, str) for one in names)):
                raise UserError(f"dataset.{split}={where} is not {_WHERE}")
        self.name = self.name or self._own_name()

    def load(self) -> Splits:
        """Read all rows, then report all bad ones together.

        Raises:
            UserError: A file or rows cannot be used, or `scorer` is unknown or fails.
        """
        return self._load(("train", "validation", "test"))

    def load_test(self) -> Splits:
        """Read only the rows to score; no other file has to exist."""
        return self._load(("test",))

    def _own_name(self) -> str:
        """What the training rows are called where they lie."""
        if self.train is None:
            return str(self.hub_id or "").rpartition("/")[2]
        first = self.train if isinstance(self.train, str) else self.train[0]
        return Path(first).name.partition(".")[0] or Path(first).name

    def _load(self, wanted: Sequence[str]) -> Splits:
        scorer = self._scorer()
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        seen = _TrainingFormats()
        splits: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
        for split in wanted:
            rows, several = self._rows(getattr(self, split), getattr(self, f"{split}_split"))
            make = partial(self._example, split, several, seen)
            splits[split] = unique_ids(list(bad.sift(rows, make)), split)
        bad.settle()
        seen.report(self.train_on)
        if isinstance(scorer, UserScorer):
            # A mistake in it must show now, not after the training.
            for example in splits["test"][:1]:
                scorer(example.completion, example.reference)
        drawn = self.train_rows if "train" in wanted else None
        train = sample_rows(splits["train"], "train_rows", drawn, self.data_seed)
        return Splits(train, splits["validation"], splits["test"], scorer)

    def _rows(self, where: Any, hub_split: str | None) -> tuple[Iterable[Row], bool]:
        """(the rows of a split, whether they come from several files)."""
        if where is not None:
            return read_files(where), len(find_files(where)) > 1
        if self.hub_id is None or hub_split is None:
            return (), False
        instead = "give files by dataset.train=FILE and dataset.test=FILE"
        return read_hub(self.hub_id, self.hub_config, hub_split, instead, self.revision), False

    def _scorer(self) -> Scorer | None:
        if isinstance(self.scorer, UserScorer):
            return self.scorer
        if self.scorer == "none":
            return None
        if self.scorer in SCORERS:
            return SCORERS[self.scorer]()
        if isinstance(self.scorer, str) and "." in self.scorer:
            return scorer_at(self.scorer)
        raise UserError(f"dataset.scorer={self.scorer} is no scorer: {_SCORER}")

    def _example(self, split: str, several: bool, seen: _TrainingFormats, row: Row) -> Example:
        values = row.read()
        read_row = formats.read(values, self.train_on, row.values or ())
        conversation = read_row.conversation
        *messages, reply = conversation.messages
        completion = reply["content"]
        if split == "test" and self.scorer in SCORERS and not (completion or "answer" in values):
            raise ValueError("has no answer to compare with: its last message has no text")
        reference: dict[str, Any] = {"answer": values.get("answer", completion)}
        if callable(self.scorer) or "." in self.scorer:
            rest = {key: one for key, one in (row.values or {}).items() if key != "answer"}
            reference |= {key: one for key, one in rest.items() if key not in read_row.used}
            reference |= {key: one for key, one in reply.items() if key == "tool_calls"}
        if self.scorer == "choice" and (split == "test" or values.get("choices")):
            reference["choices"] = _choices(values)  # those of training rows are for replay=self
        if split == "train":
            seen.note(values, read_row)
        place = f"{row.file.name}:{row.line}" if several else str(row.line)
        return Example(
            id=str(values.get("id", f"{split}:{place}")),
            messages=tuple(messages),
            completion=completion,
            reference=reference,
            group=str(values.get("group", "")),
            category=str(values.get("category", "")),
            reply_fields={key: one for key, one in reply.items() if key not in ("role", "content")},
            tools=read_row.tools,
            turns=() if split == "test" else conversation.turns[:-1],
        )


class _TrainingFormats:
    """Counts the formats of the training rows, to log a summary."""

    def __init__(self) -> None:
        self._rows = self._several = self._marked = 0
        self._formats: Counter[str] = Counter()
        self._unused: Counter[str] = Counter()

    def note(self, values: dict[str, Any], read_row: formats.ReadRow) -> None:
        self._rows += 1
        self._several += read_row.conversation.answers > 1
        self._marked += read_row.conversation.marked
        self._formats[", ".join(name for name in values if name in read_row.used)] += 1
        self._unused.update(values.keys() - read_row.used - _READ)

    def report(self, train_on: str) -> None:
        for used, count in self._formats.most_common():
            log.info("%d training rows are read from %s", count, used)
        if self._unused:
            log.info("columns that no model sees: %s", ", ".join(sorted(self._unused)))
        if self._several:
            log.info(
                "%d of %d training rows have several answers: dataset.train_on=%s trains %s",
                *(self._several, self._rows, train_on),
                "the last of each" if train_on == "last" else "all of each",
            )
        if self._marked:
            log.info("%d training rows mark themselves which answers are trained", self._marked)


def _choices(values: dict[str, Any]) -> list[Any]:
    choices = parse_json_column("choices", values.get("choices"))
    if not isinstance(choices, list) or not choices:
        raise ValueError("has no list of choices, which dataset.scorer=choice needs")
    if not all(
        isinstance(one, str | int | float) and normalise_choice(str(one)) for one in choices
    ):
        raise ValueError("has choices that are not all texts or numbers")
    if len({normalise_choice(str(one)) for one in choices}) < len(choices):
        raise ValueError("has two choices that are read alike")
    return choices
