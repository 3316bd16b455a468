"""The base model's losses on the training rows, computed once and cached for all runs.

For each row either its mean loss, or the loss of each of its targets. Does not know which objective
uses them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from transformers import PreTrainedModel

from talr_cli import progress
from talr_cli.data.rendering import IGNORED, Rendered
from talr_cli.models.head import TARGETS_AT_ONCE, head_logits, target_hidden
from talr_cli.models.row_batches import make_batches_for
from talr_cli.models.sources import cache_dir
from talr_cli.runs.atomic import read_gzip_json, write_bytes, write_gzip_json
from talr_cli.runs.lease import read_or_make
from talr_cli.runs.reading import read_file
from talr_cli.training.collator import Collator, token_row

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = 4096  # the most tokens of a batch, padding included


@dataclass(frozen=True)
class BaseModel:
    """The base model, before it is trained, and the arithmetic of the training.

    The key of the cache covers the model, the arithmetic and the rows as tokens (hence the data and
    the chat template), but neither learning rate nor seed.

    Attributes:
        fingerprint: Identifies the model's weights.
        autocast_dtype: The dtype under autocast, as in the training; None: no autocast.
        device: Where the losses are computed.
    """

    model: PreTrainedModel
    fingerprint: str
    autocast_dtype: torch.dtype | None
    device: str

    def losses(self, rows: Sequence[Rendered]) -> torch.Tensor:
        """losses[R]: mean -log p over the targets of each row, in nats."""

        def compute() -> torch.Tensor:
            of_targets = target_losses(self.model, rows, self.autocast_dtype)
            losses = torch.stack([row.mean() for row in of_targets])
            write_gzip_json(cached, losses.tolist())
            return losses

        with self._on_device():
            cached = self._cache_path(rows, "json.gz")
            return read_or_make(cached, lambda: _read_row_losses(cached, len(rows)), compute)

    def target_losses(self, rows: Sequence[Rendered]) -> list[torch.Tensor]:
        """For each row the -log p of its targets, in nats."""
        counts = [len(row.targets) for row in rows]

        def compute() -> torch.Tensor:
            losses = torch.cat(target_losses(self.model, rows, self.autocast_dtype))
            content = safetensors.torch.save({"losses": losses})
            write_bytes(cached, gzip.compress(content, compresslevel=1, mtime=0))
            return losses

        with self._on_device():
            cached = self._cache_path(rows, "safetensors.gz")
            losses = read_or_make(cached, lambda: _read_target_losses(cached, counts), compute)
        return list(losses.split(counts))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Move the model to the device for a while: before FSDP2 shards it, it is on the CPU."""
        home = self.model.device
        moves = home.type != self.device
        if moves:
            self.model.to(self.device)  # type: ignore[arg-type]
        yield
        if moves:
            self.model.to(home)  # type: ignore[arg-type]

    def _cache_path(self, rows: Sequence[Rendered], ending: str) -> Path:
        autocast = {None: "", torch.bfloat16: " bf16", torch.float16: " fp16"}[self.autocast_dtype]
        dtypes = "/".join(sorted({str(parameter.dtype) for parameter in self.model.parameters()}))
        arithmetic = f"{self.model.device.type} {dtypes}{autocast}"
        key = hashlib.sha256(f"{self.fingerprint} {arithmetic}".encode())
        for row in rows:
            key.update(json.dumps([row.input_ids, row.labels]).encode())
        return cache_dir() / "base_losses" / f"{key.hexdigest()}.{ending}"


def _read_row_losses(cached: Path, rows: int) -> torch.Tensor | None:
    values = read_gzip_json(cached)
    if values is None:
        return None
    if type(values) is not list or len(values) != rows or {type(one) for one in values} != {float}:
        log.warning("%s does not hold %d losses: it is made again", cached, rows)
        return None
    log.info("base losses: found those of %d rows", rows)
    return torch.tensor(values)


def _read_target_losses(cached: Path, counts: Sequence[int]) -> torch.Tensor | None:
    try:
        losses = safetensors.torch.load(gzip.decompress(read_file(cached)))["losses"]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error, SafetensorError, KeyError, ValueError) as error:
        log.warning("%s cannot be read (%s): it is made again", cached, error)
        return None
    total = sum(counts)
    if losses.dtype != torch.float32 or losses.shape != (total,) or not losses.isfinite().all():
        log.warning("%s does not hold %d losses: it is made again", cached, total)
        return None
    log.info("base losses: found those of %d targets", total)
    return losses


@torch.no_grad()
def target_losses(
    model: PreTrainedModel, rows: Sequence[Rendered], autocast_dtype: torch.dtype | None
) -> list[torch.Tensor]:
    """For each row the -log p of its targets, in nats, on the CPU.

    Args:
        autocast_dtype: The dtype under autocast; None: the model's own precision.
    """
    device = model.device.type
    collate = Collator(pad_token_id=0)  # any id will do, since no target sees the padding
    losses = [torch.zeros(0)] * len(rows)
    training = model.training
    model.eval()
    for batch in progress.each("base losses", batches_of_like_length(rows, model)):
        inputs = collate([token_row(rows[index]) for index in batch])
        is_target = inputs["labels"][:, 1:] != IGNORED
        inputs = send_to_device(inputs, model.device)
        with torch.autocast(
            device, autocast_dtype, enabled=autocast_dtype is not None, cache_enabled=False
        ):
            hidden = target_hidden(model, inputs)
            targets = inputs["targets"]["ids"]
            nll = [
                torch.nn.functional.cross_entropy(head_logits(model, h), t, reduction="none")
                for h, t in zip(
                    hidden.split(TARGETS_AT_ONCE), targets.split(TARGETS_AT_ONCE), strict=True
                )
            ]
        counts = is_target.sum(1)
        for index, row_losses in zip(
            batch, torch.cat(nll).float().cpu().split(counts.tolist()), strict=True
        ):
            losses[index] = row_losses
    model.train(training)
    return losses


def batches_of_like_length(rows: Sequence[Rendered], model: PreTrainedModel) -> list[list[int]]:
    """Batches of row indices, similar lengths together and the longest first."""
    return make_batches_for(model, [len(row.input_ids) for row in rows], TOKENS_AT_ONCE)
