"""The base model's loss on every training row: one pass, cached for every run that needs it.

Either a row's mean loss, or the loss of each of its targets.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from transformers import PreTrainedModel

from talr_cli import progress
from talr_cli.data.rendering import IGNORED, Rendered
from talr_cli.models.head import TARGETS_AT_ONCE, head_logits, target_hidden
from talr_cli.models.row_batches import batches_for
from talr_cli.models.sources import cache_dir
from talr_cli.runs.atomic import read_packed, write_bytes, write_packed
from talr_cli.runs.lease import hold
from talr_cli.runs.reading import read_file
from talr_cli.training.collator import Collator, token_row

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = 4096  # of a batch, with its padding


def base_losses(
    model: PreTrainedModel, fingerprint: str, rows: Sequence[Rendered], half: torch.dtype | None
) -> torch.Tensor:
    """losses[R]: mean -log p over the targets of each row, in nats, under the base `model`.

    `fingerprint` identifies the model's weights, `half` is the arithmetic of the training. The
    cache's key has the rows as tokens, hence data and chat template; no learning rate and no seed.
    """

    def make() -> torch.Tensor:
        losses = torch.stack([row.mean() for row in target_losses(model, rows, half)])
        write_packed(cached, losses.tolist())
        return losses

    cached = _place(model, fingerprint, rows, half, "json.gz")
    return _once(cached, lambda: _found(cached, len(rows)), make)


def base_target_losses(
    model: PreTrainedModel, fingerprint: str, rows: Sequence[Rendered], half: torch.dtype | None
) -> list[torch.Tensor]:
    """-log p of every target of every row, in nats, under the base; cached as `base_losses` are."""
    counts = [len(row.targets) for row in rows]

    def make() -> torch.Tensor:
        losses = torch.cat(target_losses(model, rows, half))
        content = safetensors.torch.save({"losses": losses})
        write_bytes(cached, gzip.compress(content, compresslevel=1, mtime=0))
        return losses

    cached = _place(model, fingerprint, rows, half, "safetensors.gz")
    return list(_once(cached, lambda: _found_of_targets(cached, counts), make).split(counts))


def _place(
    model: PreTrainedModel,
    fingerprint: str,
    rows: Sequence[Rendered],
    half: torch.dtype | None,
    ending: str,
) -> Path:
    under = {None: "", torch.bfloat16: " bf16", torch.float16: " fp16"}[half]
    held = "/".join(sorted({str(parameter.dtype) for parameter in model.parameters()}))
    arithmetic = f"{model.device.type} {held}{under}"
    key = hashlib.sha256(f"{fingerprint} {arithmetic}".encode())
    for row in rows:
        key.update(json.dumps([row.input_ids, row.labels]).encode())
    return cache_dir() / "base_losses" / f"{key.hexdigest()}.{ending}"


def _once(
    cached: Path, find: Callable[[], torch.Tensor | None], make: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """What `find` finds in the file, or `make` makes and writes there."""
    seen = _version(cached)
    found = find()
    if found is not None:
        return found
    # Runs that start together wait for the first of them.
    with hold(cached.with_suffix(".lock"), wait=True):
        if _version(cached) != seen:  # else it is what was not found, and warned of, before
            found = find()
        return make() if found is None else found


def _version(cached: Path) -> int | None:
    return cached.stat().st_mtime_ns if cached.exists() else None


def _found(cached: Path, rows: int) -> torch.Tensor | None:
    values = read_packed(cached)
    if values is None:
        return None
    if type(values) is not list or len(values) != rows or {type(one) for one in values} != {float}:
        log.warning("%s does not hold %d losses: it is made again", cached, rows)
        return None
    log.info("base losses: found those of %d rows", rows)
    return torch.tensor(values)


def _found_of_targets(cached: Path, counts: Sequence[int]) -> torch.Tensor | None:
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
    model: PreTrainedModel, rows: Sequence[Rendered], half: torch.dtype | None
) -> list[torch.Tensor]:
    """-log p of every target of every row, in nats, on the CPU; in batches of like length.

    Args:
        half: What to compute in, under autocast; None: in the model's own precision.
    """
    device = model.device.type
    collate = Collator(pad_token_id=0)  # no target sees its padding: any id does
    losses = [torch.zeros(0)] * len(rows)
    training = model.training
    model.eval()
    for batch in progress.each("base losses", batches_of_like_length(rows, model)):
        inputs = collate([token_row(rows[index]) for index in batch])
        is_target = inputs["labels"][:, 1:] != IGNORED
        inputs = send_to_device(inputs, model.device)
        with torch.autocast(device, half, enabled=half is not None, cache_enabled=False):
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
    """Indices of rows of like length, the longest first; each batch within TOKENS_AT_ONCE."""
    return batches_for(model, [len(row.input_ids) for row in rows], TOKENS_AT_ONCE)
