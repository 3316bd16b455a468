"""Makes a batch of rows of token ids: TRL's collator, plus replayed rows and an index of targets.

Targets are counted here, on the host, so that no step has to wait for the device to do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from talr_cli.data.rendering import IGNORED, Rendered


def token_row(row: Rendered) -> dict[str, Any]:
    """A row in the form that the collator takes."""
    return {"input_ids": row.input_ids, "labels": row.labels}


@dataclass
class Collator(DataCollatorForLanguageModeling):
    """Adds `targets` to the batch, a mapping about its N targets in S sequences that have any:

    - `at[N]`: the position, in the flattened batch, that predicts each target;
    - `ids[N]`: the token id of each target;
    - `sequence[N]`: the sequence of each target, counted from 0;
    - `counts[S]`: how many targets each sequence has;
    - `weights[S]`: the `sequence_weight` of each sequence, if rows have one;
    - `base_log_probs[N]`: the log-probability of each target under the base, if rows have them;

    and `input_tokens`, the number of tokens without padding. The replayed rows of a row come right
    behind it, in the same batch.

    Args:
        general: The rows to which a row's `replay` refers by index.
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
