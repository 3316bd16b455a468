"""The same bits each time on a GPU, so that a training that was killed ends as one that was not.

Some of CUDA's kernels add up in the order in which their blocks happen to end. In a training step
these are attention's backward pass (flash, padded or joined; memory-efficient; cuDNN's, which torch
then leaves out), `index_add`, `scatter_add` and whatever has them as its gradient. TRL's head,
matrix products of one stream, norms and AdamW have none of them. torch has a deterministic form of
each, but uses attention's only with `warn_only=False`, where an operation without such a form is an
error: with warnings alone flash attention stays as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

log = logging.getLogger(__name__)

DEVICES = ("cuda",)  # a CPU's sums have a fixed order anyway
FLASH = "FLASH_ATTENTION_DETERMINISTIC"  # how transformers tells the flash-attention packages
_HAS_NONE = " does not have a deterministic implementation"
MAY_DIFFER = "a run that is killed may end with other bits than one that is not: %s"


class NoFixedOrderError(Exception):
    """An operation adds up in no fixed order on a GPU, and torch has no other form of it."""


@contextmanager
def same_bits(wanted: bool, model: Any, device: str) -> Iterator[None]:
    """Inside, a GPU computes the same bits each time; afterwards torch's switches are as before.

    Where the model or the process rules it out, a line says so and nothing is switched.

    Args:
        wanted: trainer.deterministic.

    Raises:
        NoFixedOrderError: The model has an operation that torch knows no deterministic form of.
    """
    if not wanted or device not in DEVICES:
        yield
        return
    with _strict():
        obstacle = _obstacle(model, device)
        if obstacle is None:
            try:
                yield
            except RuntimeError as error:
                operation, found, _ = str(error).partition(_HAS_NONE)
                if not found:
                    raise
                said = f"{operation} adds up in no fixed order on a GPU"
                raise NoFixedOrderError(said) from error
            return
    log.warning(MAY_DIFFER, obstacle)
    yield


@contextmanager
def _strict() -> Iterator[None]:
    utilities: Any = torch.utils.deterministic
    mode = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    filled, flash = utilities.fill_uninitialized_memory, os.environ.get(FLASH)
    torch.use_deterministic_algorithms(True)
    utilities.fill_uninitialized_memory = False  # it costs time, and nothing here reads such memory
    os.environ[FLASH] = "1"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        utilities.fill_uninitialized_memory = filled
        if flash is None:
            del os.environ[FLASH]
        else:
            os.environ[FLASH] = flash


def _obstacle(model: Any, device: str) -> str | None:
    """Why sums cannot have a fixed order for this model in this process; None: they can."""
    if model._is_stateful:
        return "this model's layers with a state add up in no fixed order on a GPU"
    try:  # torch reads the variable once, at the first matrix product of a process
        torch.ones(1, 1, device=device).mm(torch.ones(1, 1, device=device))
    except RuntimeError:
        return (
            "CUDA was in use before CUBLAS_WORKSPACE_CONFIG was :4096:8 or :16:8 (import talr_cli "
            "first, and leave it unset)"
        )
    return None
