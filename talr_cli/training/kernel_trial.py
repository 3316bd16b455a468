"""Tries a GPU kernel on the device before it is used: does it run, and is it correct?

What a kernel is compared with is known in the kernel's own module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from talr_cli.errors import reason_of


def try_kernel(error: Callable[[], float]) -> tuple[float, str]:
    """(the error of a kernel, the same in words). The error is infinite if the kernel raises.

    Args:
        error: Runs the kernel and returns the largest relative distance of its values and gradients
            from a plain formula.
    """
    try:
        off = error()
    except Exception as failed:  # compilers and kernels raise errors of any kind
        return float("inf"), reason_of(failed)
    return off, f"it is off by {off:.2g}"


def relative_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, as a share of the norm of `other`, which is in fp32."""
    return float((one.float() - other).norm().detach() / other.norm().detach())


def compute_dtype(states: torch.Tensor) -> torch.dtype:
    """The dtype to cast `states` to for a kernel, since autocast does not apply to it."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
