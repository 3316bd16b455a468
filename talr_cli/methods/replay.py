"""Replay: rows trained on besides the domain's own, so that less is forgotten.

They are general rows, or the base model's own correct answers. Knows how many of them each domain
row takes along; does not know how answers are generated (`run/own_rows.py`) or rows rendered.
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

BUNDLED_ROWS = Path(data.__file__).with_name("general_mini.jsonl")


@dataclass
class ReplayedRows:
    """Rows that make up `share` of all target tokens; with 1 no domain row is trained on."""

    share: float = value("of all target tokens, their part", above=0, at_most=1)


@dataclass
class Replay(ReplayedRows):
    """A share of the target tokens comes from general data."""

    share: float = value(
        "share of the target tokens that come from general data", 0.1, above=0, below=1
    )
    path: str | None = value(
        "JSONL, CSV or Parquet rows, as dataset=jsonl takes them; null: a small set that "
        "comes with talr",
        None,
        is_file=True,
    )

    def examples(self) -> list[Example]:
        """The general rows, in the order of their file."""
        return Jsonl(train=self.path or str(BUNDLED_ROWS)).load().train


@dataclass
class SelfReplay(ReplayedRows):
    """The base model's own answers to the training prompts, if the scorer finds them correct.

    With share=1 nothing else is trained on: this is the Self-SFT of arXiv 2510.18874, which finds
    that forgetting comes from targets that the model would not produce itself. How many answers are
    drawn for a prompt, and how they are sampled, is our choice. They are generated and scored once
    for all learning rates and seeds.
    """

    share: float = value(
        "share of the target tokens that come from the base's own answers; 1: train on these only",
        1.0,
        above=0,
        at_most=1,
    )
    samples: int = value("answers drawn for each prompt; all right ones are kept", 1, at_least=1)
    temperature: float = value(
        "sampling temperature; 0: always the likeliest token", 1.0, at_least=0
    )
    max_new_tokens: int | None = value(
        "maximum number of tokens of an answer; null: twice the longest of the training rows, at "
        "least 128",
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
        """The name in tables."""
        return "self-sft" if self.share == 1 else "self-replay"


def assign_replayed_rows(
    domain_targets: Sequence[int], general_targets: Sequence[int], share: float
) -> list[list[int]]:
    """Which general rows each domain row takes along, so that `share` of all targets is general.

    This way an epoch has its share to within one row, and batches have it on average. The general
    rows are taken in order, again and again.

    Args:
        domain_targets[R]: The number of target tokens of each domain row.
        general_targets[G]: The number of target tokens of each general row.

    Returns:
        For each domain row the indices of its general rows; most of these lists are empty.

    Raises:
        UserError: All are: the training would be one without replay.
    """
    owed, index, assigned = 0.0, 0, []
    for targets in domain_targets:
        owed += targets * share / (1 - share)
        rows: list[int] = []
        # Rounded to the nearest row, so that the error does not accumulate.
        while owed >= general_targets[index] / 2:
            rows.append(index)
            owed -= general_targets[index]
            index = (index + 1) % len(general_targets)
        assigned.append(rows)
    if not any(assigned):
        raise UserError(
            f"replay.share={share:g} beside the {sum(domain_targets)} target tokens of an epoch is "
            f"less than half of the first row to replay ({general_targets[0]} tokens): none would "
            "be; raise replay.share, or train on more rows"
        )
    return assigned
