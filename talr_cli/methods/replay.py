"""Rows beside the domain's own: general ones, or the base model's right answers.

Both are simple and strong ways to forget less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from talr_cli import data
from talr_cli.data.base import Example
from talr_cli.data.jsonl import Jsonl
from talr_cli.errors import UserError
from talr_cli.fields import value

EMBEDDED_ROWS = Path(data.__file__).with_name("general_mini.jsonl")


@dataclass
class OtherRows:
    """Rows that make up a share of the target tokens; with 1 the domain's own are not trained."""

    share: float = value("of all target tokens, their part", above=0, at_most=1)


@dataclass
class Replay(OtherRows):
    """A share of the target tokens comes from general data."""

    share: float = value("share of all target tokens that is general", 0.1, above=0, below=1)
    path: str | None = value(
        "JSONL, CSV or Parquet rows, as dataset=jsonl takes them; null: a small set that "
        "comes with talr",
        None,
        is_file=True,
    )

    def examples(self) -> list[Example]:
        """The general rows, in the order of their file."""
        return Jsonl(train=self.path or str(EMBEDDED_ROWS)).load().train


@dataclass
class SelfReplay(OtherRows):
    """The base model's own answers to the training prompts, as far as the scorer finds them right.

    With share=1 nothing else is trained: Self-SFT of arXiv 2510.18874, which finds that forgetting
    comes from targets that the model would not give itself. The number of answers to a prompt and
    how they are sampled are our choice. They are made and judged once for all rates and seeds.
    """

    share: float = value(
        "share of all target tokens that is from the base's own answers; 1: train on these alone",
        1.0,
        above=0,
        at_most=1,
    )
    samples: int = value("answers drawn for each prompt; all right ones are kept", 1, at_least=1)
    temperature: float = value(
        "sampling temperature; 0: always the likeliest token", 1.0, at_least=0
    )
    max_new_tokens: int | None = value(
        "the most tokens of an answer; null: twice the longest of the training rows, at least 128",
        None,
        at_least=1,
    )

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                f"replay.samples={self.samples} answers are all the same with "
                "replay.temperature=0: raise it, or leave one of the two out"
            )

    @property
    def name(self) -> str:
        """What stands in tables."""
        return "self-sft" if self.share == 1 else "self-replay"


def spread(
    domain_targets: Sequence[int], general_targets: Sequence[int], share: float
) -> list[list[int]]:
    """Which general rows each domain row takes along, so that `share` of all targets is general.

    So every batch has its share as closely as whole rows allow; over an epoch the share is met to
    within one row. The general rows are taken in order, and from the start again when they end.

    Args:
        domain_targets[R]: Target tokens of every domain row.
        general_targets[G]: Target tokens of every general row.

    Returns:
        For each domain row the indices of its general rows; most are empty.
    """
    owed, following, taken = 0.0, 0, []
    for targets in domain_targets:
        owed += targets * share / (1 - share)
        rows: list[int] = []
        # Half a row early or late on average: the error does not add up.
        while owed >= general_targets[following] / 2:
            rows.append(following)
            owed -= general_targets[following]
            following = (following + 1) % len(general_targets)
        taken.append(rows)
    return taken
