"""Rows as tokens -> the columns of the trainer's dataset: what an objective needs of each row.

Knows replay and what is computed with the base before training; does not know the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from talr_cli.data.encoding import TokenRows
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.methods.base import Objective
from talr_cli.methods.method import Method
from talr_cli.methods.replay import spread
from talr_cli.models.tokenizer import IGNORED
from talr_cli.training.base_losses import base_losses, base_target_losses
from talr_cli.training.collator import token_row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The base model before it is trained, and the arithmetic of the training."""

    model: PreTrainedModel
    fingerprint: str
    half: torch.dtype | None
    device: str

    def losses(self, rows: Sequence[Rendered]) -> torch.Tensor:
        """losses[R]: the mean over each row's targets."""
        with self._at_work():
            return base_losses(self.model, self.fingerprint, rows, self.half)

    def target_losses(self, rows: Sequence[Rendered]) -> list[torch.Tensor]:
        """The loss of each target of each row."""
        with self._at_work():
            return base_target_losses(self.model, self.fingerprint, rows, self.half)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """On the device; one that FSDP2 will split up lies on the CPU before and after."""
        home = self.model.device
        moves = home.type != self.device
        if moves:
            self.model.to(self.device)  # type: ignore[arg-type]
        yield
        if moves:
            self.model.to(home)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Columns:
    """What the trainer trains on.

    Attributes:
        rows: The columns of the training rows.
        general: The general rows that their `replay` points to.
        facts: What the `training` results say about them.
    """

    rows: dict[str, Any]
    general: list[dict[str, Any]]
    facts: dict[str, float]


def columns_of(
    method: Method, rows: Sequence[Rendered], general: Sequence[Rendered], base: Base
) -> Columns:
    """The columns for a method; the base is asked once for all rows together.

    Raises:
        UserError: The objective leaves no target.
    """
    objective, facts = method.objective, {}
    if objective.masks_targets:
        before = sum(len(row.targets) for row in chain(rows, general))
        rows, general = _masked(objective, rows, general, base)
        after = sum(len(row.targets) for row in chain(rows, general))
        facts["masked_share"] = 1 - after / before
        log.info("masked by the objective: %.1f%% of the targets", 100 * facts["masked_share"])
    columns, others = token_columns(rows), [token_row(row) for row in general]
    if method.replay is not None and general:
        domain_targets, general_targets = (
            [len(row.targets) for row in some] for some in (rows, general)
        )
        columns["replay"] = spread(domain_targets, general_targets, method.replay.share)
        taken = sum(general_targets[index] for some in columns["replay"] for index in some)
        log.info(
            "replay: %d general rows an epoch, %.1f%% of the target tokens",
            sum(map(len, columns["replay"])),
            100 * taken / (taken + sum(domain_targets)),
        )
    if objective.weighs_sequences:
        weights = objective.sequence_weights(base.losses(TokenRows(chain(rows, general)))).tolist()
        _add(columns, others, "sequence_weight", weights)
    if objective.sees_base:
        losses = base.target_losses(TokenRows(chain(rows, general)))
        _add(columns, others, "base_log_probs", [(-one).numpy() for one in losses])
    return Columns(columns, others, facts)


def token_columns(rows: Sequence[Rendered]) -> dict[str, Any]:
    """The columns of a dataset of these rows, in the memory in which `TokenRows` has them."""
    rows = rows if isinstance(rows, TokenRows) else TokenRows(rows)
    bounds = pyarrow.array(np.frombuffer(rows.bounds, np.int64))
    return {
        name: pyarrow.LargeListArray.from_arrays(bounds, np.frombuffer(values, np.int32))
        for name, values in (("input_ids", rows.ids), ("labels", rows.labels))
    }


def dataset_of(columns: Mapping[str, Any]) -> Dataset:
    """The dataset of these columns; `Dataset.from_dict` would copy all rows to take a digest."""
    return Dataset(pyarrow.table(dict(columns)), fingerprint="rows")


def _add(
    columns: dict[str, Any], general: list[dict[str, Any]], name: str, values: list[Any]
) -> None:
    """A value for each training row, then for each general one."""
    count = len(values) - len(general)
    columns[name] = values[:count]
    for row, value in zip(general, values[count:], strict=True):
        row[name] = value


def _masked(
    objective: Objective, rows: Sequence[Rendered], general: Sequence[Rendered], base: Base
) -> tuple[TokenRows, TokenRows]:
    """The rows whose labels are the targets that the objective keeps; rows without any are gone."""
    losses = iter(base.target_losses(TokenRows(chain(rows, general))))
    parts = []
    for some, what in ((rows, "training"), (general, "replay")):
        left = TokenRows()
        for row, own in zip(some, losses, strict=False):
            keeps = iter(objective.kept(own).tolist())
            labels = [IGNORED if one == IGNORED or not next(keeps) else one for one in row.labels]
            masked = replace(row, labels=labels)
            if masked.targets:
                left.append(masked)
        if some and not left:
            raise UserError(
                f"objective={type(objective).__name__.lower()} masks every target of the {what} "
                "rows: the base expects none of them; raise objective.threshold"
            )
        if len(left) < len(some):
            log.warning(
                "%d of %d %s rows are left out: all of their targets are masked",
                *(len(some) - len(left), len(some), what),
            )
        parts.append(left)
    return parts[0], parts[1]
