"""Rows of token ids -> a batch: TRL's collator, plus replay's general rows and where targets are.

Targets are counted here, on the host, so that no step has to wait for the device to count them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from talr_cli.data.rendering import IGNORED, Rendered


def token_row(row: Rendered) -> dict[str, Any]:
    """What the collator takes for a row."""
    return {"input_ids": row.input_ids, "labels": row.labels}


@dataclass
class Collator(DataCollatorForLanguageModeling):
    """Adds `targets` to the batch, a mapping (N targets, in S sequences that have one):

    - `at[N]`: the position, in the flattened batch, that predicts each target;
    - `ids[N]`: the targets;
    - `sequence[N]`: the sequence of each, counted from 0; `counts[S]`: how many each has;
    - `weights[S]`: the `sequence_weight` of each, where rows have one;
    - `base_log_probs[N]`: of each target under the base, where rows have them;

    and `input_tokens`, how many tokens there are without padding. A general row stands behind the
    row that takes it along, in whatever batch that is.

    Args:
        general: The rows that the indices in a row's `replay` mean.
    """

    general: Sequence[dict[str, Any]] = field(default_factory=list)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for example in examples:
            rows += [example, *(self.general[index] for index in example.get("replay", ()))]
        batch = super().torch_call(rows)
        labels = batch["labels"]
        is_next = torch.zeros_like(labels, dtype=torch.bool)
        is_next[:, :-1] = labels[:, 1:] != IGNORED
        at = is_next.flatten().nonzero()[:, 0]
        joined = batch.get("seq_idx")
        row = at // labels.shape[1] if joined is None else joined[0][at].long()
        with_target, sequence, counts = row.unique_consecutive(
            return_inverse=True, return_counts=True
        )
        targets = {
            "at": at,
            "ids": labels.flatten()[at + 1],
            "sequence": sequence,
            "counts": counts,
        }
        if "sequence_weight" in examples[0]:
            weights = torch.tensor([row["sequence_weight"] for row in rows])
            targets["weights"] = weights[with_target]
        if "base_log_probs" in examples[0]:
            of_base = [one for row in rows for one in row["base_log_probs"]]
            targets["base_log_probs"] = torch.tensor(of_base, dtype=torch.float32)
        tokens = sum(len(row["input_ids"]) for row in rows)
        return {**batch, "targets": targets, "input_tokens": tokens}
