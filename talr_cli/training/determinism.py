"""Makes training on a GPU reproducible bit for bit, so that an interrupted run ends as any other.

Some CUDA kernels add up in the order in which their blocks happen to finish. In a training step
these are attention's backward pass (flash, padded or joined; memory-efficient; cuDNN's, which torch
then leaves out), `index_add`, `scatter_add` and operations whose gradient they are. TRL's head,
matrix products on one stream, norms and AdamW use none of them. torch has a deterministic version
of each, but uses that of flash attention only with `warn_only=False`, where an operation without a
deterministic version is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import patch_environment

log = logging.getLogger(__name__)

DEVICES = ("cuda",)  # a CPU's sums have a fixed order anyway
FLASH = "FLASH_ATTENTION_DETERMINISTIC"  # the environment variable that transformers reads for it
_HAS_NONE = " does not have a deterministic implementation"
MAY_DIFFER = "a run that is killed may end with other bits than one that is not: %s"


class NoFixedOrderError(Exception):
    """An operation adds up in no fixed order on a GPU, and torch has no deterministic version."""


@contextmanager
def deterministic_sums(wanted: bool, model: Any, device: str) -> Iterator[None]:
    """Within the context, a GPU computes the same bits each time.

    If the model or the process rules that out, a warning says so and nothing is changed.

    Args:
        wanted: trainer.deterministic.

    Raises:
        NoFixedOrderError: torch has no deterministic version of one of the model's operations.
    """
    if not wanted or device not in DEVICES:
        yield
        return
    with _deterministic_torch():
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
def _deterministic_torch() -> Iterator[None]:
    """Switch torch and the flash-attention packages to deterministic algorithms, for a while."""
    utilities: Any = torch.utils.deterministic
    mode = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = utilities.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    utilities.fill_uninitialized_memory = False  # it costs time, and nothing here reads such memory
    try:
        with patch_environment(**{FLASH: "1"}):
            yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        utilities.fill_uninitialized_memory = filled


def _obstacle(model: Any, device: str) -> str | None:
    """Why sums cannot have a fixed order for this model in this process; None if they can."""
    if model._is_stateful:
        return "this model's layers with a state add up in no fixed order on a GPU"
    try:  # torch reads the environment variable once, at the first matrix product of a process
        torch.ones(1, 1, device=device).mm(torch.ones(1, 1, device=device))
    except RuntimeError:
        return (
            "CUDA was in use before CUBLAS_WORKSPACE_CONFIG was :4096:8 or :16:8 (import talr_cli "
            "first, and leave it unset)"
        )
    return None
