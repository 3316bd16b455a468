"""Replay: general rows mixed into domain fine-tuning, a plain and strong way to forget less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from talr_cli import data
from talr_cli.data.base import Example
from talr_cli.data.jsonl import Jsonl
from talr_cli.fields import value

EMBEDDED_ROWS = Path(data.__file__).with_name("general_mini.jsonl")


@dataclass
class Replay:
    """A share of the target tokens comes from general data."""

    share: float = value("of all target tokens, the part that is general", 0.1, above=0, below=1)
    path: str | None = value(
        "JSONL, CSV or Parquet rows, as dataset=jsonl takes them; null: the embedded ones",
        None,
        is_file=True,
    )

    def examples(self) -> list[Example]:
        """The general rows, in the order of their file."""
        return Jsonl(train=self.path or str(EMBEDDED_ROWS)).load().train


def spread(
    domain_targets: Sequence[int], general_targets: Sequence[int], share: float
) -> list[list[int]]:
    """Which general rows each domain row takes along, so that `share` of all targets is general.

    Every batch thereby holds its part as closely as whole rows allow; over an epoch the share is
    met to within one row. The general rows are taken in order, from the start again when they end.

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
