"""Rows of token ids -> a batch: TRL's collator, plus the general rows that a row takes along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from talr_cli.data.rendering import Rendered


def token_row(row: Rendered) -> dict[str, Any]:
    """What the collator takes for a row."""
    return {"input_ids": row.input_ids, "labels": row.labels}


@dataclass
class Collator(DataCollatorForLanguageModeling):
    """Adds what rows have of the base: `sequence_weights[S]`, `base_log_probs[N]` of the targets.

    A general row stands behind the row that takes it along, in whatever batch that is.

    Args:
        general: The rows that the indices in a row's `replay` mean.
    """

    general: Sequence[dict[str, Any]] = field(default_factory=list)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for example in examples:
            rows += [example, *(self.general[index] for index in example.get("replay", ()))]
        batch = super().torch_call(rows)
        if "sequence_weight" in examples[0]:
            batch["sequence_weights"] = torch.tensor([row["sequence_weight"] for row in rows])
        if "base_log_probs" in examples[0]:
            joined = [one for row in rows for one in row["base_log_probs"]]
            batch["base_log_probs"] = torch.tensor(joined, dtype=torch.float32)
        return batch
