"""Whether a kernel computes what it should here: it is tried on the device before it is used.

Knows how a trial ends; what a kernel is compared with is known where the kernel is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from talr_cli.errors import reason_of


def tried(error: Callable[[], float]) -> tuple[float, str]:
    """(how far off a kernel is, that in words).

    Args:
        error: Runs the kernel: the largest relative distance of its values and gradients from a
            plain formula. Infinite where it raises.
    """
    try:
        off = error()
    except Exception as failed:  # compilers and kernels raise errors of any kind
        return float("inf"), reason_of(failed)
    return off, f"it is off by {off:.2g}"


def relative_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, as a share of the norm of `other`, which is in fp32."""
    return float((one.float() - other).norm().detach() / other.norm().detach())


def computed_in(states: torch.Tensor) -> torch.dtype:
    """The dtype that a kernel gets `states` in; autocast does not tell the kernel its own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
