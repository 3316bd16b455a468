"""The same bits from the same numbers on a GPU, so that a killed training goes on to the same ones.

Some of CUDA's kernels add up in the order in which their blocks happen to end. Of a training step
those are attention's backward pass (flash, padded or joined; memory-efficient; cuDNN's, which torch
then leaves out), `index_add`, `scatter_add` and what has them as its gradient; none of them is in
TRL's head, in matrix products of one stream, in norms or in AdamW. torch has other forms of all of
these, but takes attention's only where what has no such form is an error (`warn_only=False`): with
warnings alone flash attention stays as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

log = logging.getLogger(__name__)

DEVICES = ("cuda",)  # elsewhere nothing is to be switched: a CPU's sums have one order
FLASH = "FLASH_ATTENTION_DETERMINISTIC"  # by which transformers tells the packages for it
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
        NoFixedOrderError: At such an operation, in a model that nothing was known of before.
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
    of_empty: Any = torch.utils.deterministic
    mode = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    filled, flash = of_empty.fill_uninitialized_memory, os.environ.get(FLASH)
    torch.use_deterministic_algorithms(True)
    of_empty.fill_uninitialized_memory = False  # it costs time, and nothing here reads such memory
    os.environ[FLASH] = "1"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        of_empty.fill_uninitialized_memory = filled
        if flash is None:
            del os.environ[FLASH]
        else:
            os.environ[FLASH] = flash


def _obstacle(model: Any, device: str) -> str | None:
    """Why it cannot be done for this model in this process."""
    if model._is_stateful:
        return "this model's layers with a state add up in no fixed order on a GPU"
    try:  # torch looks at it once, when a process multiplies for the first time
        torch.ones(1, 1, device=device).mm(torch.ones(1, 1, device=device))
    except RuntimeError:
        return (
            "CUDA was in use before CUBLAS_WORKSPACE_CONFIG was :4096:8 or :16:8 (import talr_cli "
            "first, and leave it unset)"
        )
    return None
