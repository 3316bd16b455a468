"""Makes the columns of the trainer's dataset from rows of tokens, with what the objective needs.

Knows replay and what the base model computes before training; does not know the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset

from talr_cli.data.encoding import TokenRows, as_token_rows
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.methods.base import Objective
from talr_cli.methods.checks import checked
from talr_cli.methods.method import Method
from talr_cli.methods.replay import assign_replayed_rows
from talr_cli.models.tokenizer import IGNORED
from talr_cli.training.base_losses import BaseModel
from talr_cli.training.collator import token_row

log = logging.getLogger(__name__)

FAR_OFF = 0.25  # of replay.share: few whole rows cannot come closer, which is worth a warning


@dataclass(frozen=True)
class Columns:
    """What the trainer trains on.

    Attributes:
        rows: The columns of the training rows.
        general: The general rows, to which the column `replay` of the training rows refers by
            index.
        facts: What is added to the `training` results.
    """

    rows: dict[str, Any]
    general: list[dict[str, Any]]
    facts: dict[str, float]


def make_columns(
    method: Method, rows: Sequence[Rendered], general: Sequence[Rendered], base: BaseModel
) -> Columns:
    """The columns that a method needs.

    Raises:
        UserError: The objective masks all targets, or no row would be replayed.
    """
    objective, facts = method.objective, {}
    if objective.masks_targets:
        before = sum(len(row.targets) for row in chain(rows, general))
        rows, general = _mask_targets(objective, rows, general, base)
        after = sum(len(row.targets) for row in chain(rows, general))
        facts["masked_share"] = 1 - after / before
        log.info("masked by the objective: %.1f%% of the targets", 100 * facts["masked_share"])
    columns, others = token_columns(rows), [token_row(row) for row in general]
    if method.replay is not None and general:
        columns["replay"], facts["replayed_share"] = _replay(method.replay.share, rows, general)
    if objective.weighs_sequences:
        of_base = base.losses(TokenRows(chain(rows, general)))
        weights = checked(
            objective, "sequence_weights", objective.sequence_weights(of_base), of_base
        )
        _add_column(columns, others, "sequence_weight", weights.tolist())
    if objective.sees_base:
        losses = base.target_losses(TokenRows(chain(rows, general)))
        _add_column(columns, others, "base_log_probs", [(-one).numpy() for one in losses])
    return Columns(columns, others, facts)


def _replay(
    share: float, rows: Sequence[Rendered], general: Sequence[Rendered]
) -> tuple[list[list[int]], float]:
    """(the general rows that each row takes along, the share of the targets that they make up)."""
    targets, of_general = (as_token_rows(some).target_counts for some in (rows, general))
    assigned = assign_replayed_rows(targets, of_general, share)
    taken = [of_general[index] for some in assigned for index in some]
    actual = sum(taken) / (sum(taken) + sum(targets))
    log.log(
        logging.INFO if abs(actual - share) <= FAR_OFF * share else logging.WARNING,
        "replay: %d general rows an epoch, %.1f%% of the target tokens (replay.share=%g)",
        len(taken),
        100 * actual,
        share,
    )
    return assigned, actual


def token_columns(rows: Sequence[Rendered]) -> dict[str, Any]:
    """The columns of a dataset of these rows, in the memory in which `TokenRows` has them."""
    rows = as_token_rows(rows)
    bounds = pyarrow.array(np.frombuffer(rows.bounds, np.int64))
    return {
        name: pyarrow.LargeListArray.from_arrays(bounds, np.frombuffer(values, np.int32))
        for name, values in (("input_ids", rows.ids), ("labels", rows.labels))
    }


def dataset_of(columns: Mapping[str, Any]) -> Dataset:
    """The dataset of these columns; `Dataset.from_dict` would copy all rows to take a digest."""
    return Dataset(pyarrow.table(dict(columns)), fingerprint="rows")


def _add_column(
    columns: dict[str, Any], general: list[dict[str, Any]], name: str, values: list[Any]
) -> None:
    """Add a column; `values` has one for each training row, then one for each general row."""
    count = len(values) - len(general)
    columns[name] = values[:count]
    for row, value in zip(general, values[count:], strict=True):
        row[name] = value


def _mask_targets(
    objective: Objective, rows: Sequence[Rendered], general: Sequence[Rendered], base: BaseModel
) -> tuple[TokenRows, TokenRows]:
    """(rows, general) with only the targets that the objective keeps, without rows left empty."""
    losses = iter(base.target_losses(TokenRows(chain(rows, general))))
    parts = []
    for some, kind in ((rows, "training"), (general, "replay")):
        left = TokenRows()
        for row, row_losses in zip(some, losses, strict=False):
            mask = objective.target_mask(row_losses)
            keep = iter(checked(objective, "target_mask", mask, row_losses, torch.bool).tolist())
            labels = [id if id != IGNORED and next(keep) else IGNORED for id in row.labels]
            masked = replace(row, labels=labels)
            if masked.targets:
                left.append(masked)
        if some and not left:
            raise UserError(
                f"objective={type(objective).__name__.lower()} masks every target of the {kind} "
                "rows: the base expects none of them; raise objective.threshold"
            )
        if len(left) < len(some):
            log.warning(
                "%d of %d %s rows are left out: all of their targets are masked",
                *(len(some) - len(left), len(some), kind),
            )
        parts.append(left)
    return parts[0], parts[1]
