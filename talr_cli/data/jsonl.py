"""The user's own data: JSONL, JSON, CSV or Parquet files in prompt/completion or messages form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from talr_cli.data.base import Example, Message, Splits
from talr_cli.data.rows import BadRows, Row, read_rows
from talr_cli.errors import UserError
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.text import SCORERS
from talr_cli.scorers.user import UserScorer, scorer_at


@dataclass
class Jsonl:
    """Rows are {"prompt": str, "completion": str} or {"messages": [{"role", "content"}, ...]}.

    In messages form the last message is the assistant's and is what is learned. Optional fields:
    "answer" (what the scorer compares with; the completion by default), "choices" (for the scorer
    of that name), "id", "group". Without a test file there is nothing to score.

    `scorer` is one of SCORERS, `none`, or the user's own: the dotted path of a function, or an
    object that Hydra made of {_target_: package.Class, ...}, see `scorers.user`. The reference of
    such a one is the row without the conversation, with "answer" filled in.
    """

    name: str = "jsonl"
    train: str = MISSING
    test: str | None = None
    validation: str | None = None
    scorer: Any = "exact_match"
    on_bad_row: str = "stop"
    max_bad_share: float = 0.05

    def load(self) -> Splits:
        """Read all files, then report every bad row of all of them together.

        Raises:
            UserError: A file or rows cannot be used, or `scorer` is unknown or fails.
        """
        scorer = self._scorer()
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        splits: dict[str, list[Example]] = {}
        for split, path in (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
        ):
            rows = read_rows(Path(path)) if path is not None else ()
            splits[split] = list(bad.sift(rows, partial(self._example, split)))
        bad.settle()
        if isinstance(scorer, UserScorer):
            # Its mistakes must show now, not after the training.
            for example in splits["test"][:1]:
                scorer(example.completion, example.reference)
        return Splits(splits["train"], splits["validation"], splits["test"], scorer)

    def _scorer(self) -> Scorer | None:
        if isinstance(self.scorer, UserScorer):
            return self.scorer
        if self.scorer == "none":
            return None
        if self.scorer in SCORERS:
            return SCORERS[self.scorer]()
        if isinstance(self.scorer, str) and "." in self.scorer:
            return scorer_at(self.scorer)
        raise UserError(
            f"dataset.scorer={self.scorer} is not one of {', '.join([*SCORERS, 'none'])}, nor a "
            "function of your own, package.module.function"
        )

    def _example(self, split: str, row: Row) -> Example:
        if row.values is None:
            raise ValueError(row.error)
        values = row.values
        if values.get("messages") is not None:
            messages, completion = _conversation(values["messages"])
        else:
            messages = ({"role": "user", "content": _text(values, "prompt")},)
            completion = _text(values, "completion")
        answer = values.get("answer")
        reference = {"answer": completion if answer is None else answer}
        if callable(self.scorer) or "." in self.scorer:
            reference = {**values, **reference}
            for field in ("prompt", "completion", "messages"):
                reference.pop(field, None)
        if self.scorer == "choice":
            choices = values.get("choices")
            choices = json.loads(choices) if isinstance(choices, str) else choices
            if not isinstance(choices, list) or not choices:
                raise ValueError("has no list of choices, which dataset.scorer=choice needs")
            reference["choices"] = choices
        row_id = values.get("id")
        return Example(
            id=f"{split}:{row.line}" if row_id is None else str(row_id),
            messages=messages,
            completion=completion,
            reference=reference,
            group=str(values.get("group") or ""),
        )


def _text(values: dict[str, Any], field: str) -> str:
    if values.get(field) is None:
        raise ValueError(f"has no {field}")
    if not isinstance(values[field], str):
        raise ValueError(f"has a {field} that is not text but {type(values[field]).__name__}")
    if not values[field].strip():
        raise ValueError(f"has an empty {field}")
    return values[field]


def _conversation(messages: Any) -> tuple[tuple[Message, ...], str]:
    """(prompt, completion) of a conversation; in a CSV file it comes as JSON."""
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            raise ValueError("has messages that are not JSON") from None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise ValueError("has messages that are not a list of objects")
    parts = tuple(
        {"role": _text(one, "role"), "content": _text(one, "content")} for one in messages
    )
    if len(parts) < 2 or parts[-1]["role"] != "assistant":
        raise ValueError("has messages that do not end with the assistant's answer to a prompt")
    return parts[:-1], parts[-1]["content"]
