"""Attention over joined rows by torch's own flash kernel (varlen_attn), on GPUs that have it.

One call attends over all rows, without making the host wait. Before it is used, the kernel is tried
on the device against plain attention row by row: sliding windows, grouped-query attention and
gradients. If it is wrong or does not run, attention is computed in another way (`joined_rows`).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from talr_cli.training.kernel_trial import compute_dtype, relative_distance, try_kernel

log = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)  # Ampere, the first GPUs for which torch has a flash kernel
# The rows and sliding windows of the trial. Kernels go through a row by tiles of up to 128 tokens,
# and torch may take another kernel for more: one row and one window are of several.
LENGTHS, WINDOWS = (17, 1, 300, 9), (None, 5, 140)
BOUND = 2e-2  # the largest relative error of outputs and gradients in bf16


def find_kernel() -> Callable[..., Any] | None:
    """torch's varlen_attn; None in versions of torch that lack it or its sliding windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = inspect.signature(varlen_attn).parameters
    return varlen_attn if "window_size" in takes else None


def can_attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether the kernel can attend over these states [1, heads, T, D]; tries it once."""
    if not query.is_cuda or dropout or key.shape[-1] != value.shape[-1]:
        return False
    heads, width = query.shape[1], query.shape[-1]
    return works(query.device, compute_dtype(query), heads, key.shape[1], width)


@cache
def works(device: torch.device, dtype: torch.dtype, heads: int, keys: int, width: int) -> bool:
    """Whether the device has the kernel and it is correct there.

    Args:
        heads: Query heads.
        keys: Key and value heads.
        width: The size of a head.
    """
    found = find_kernel()
    if device.type != "cuda" or dtype not in HALF or found is None:
        return False
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    off, problem = try_kernel(partial(max_error, found, device, dtype, heads, keys, width))
    if off <= BOUND:
        return True
    # Not to run is normal: the kernel is not made for every size of a head. To be wrong is not.
    level = logging.INFO if math.isinf(off) else logging.WARNING
    log.log(level, "attention: torch's kernel for joined rows is not used: %s", problem)
    return False


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
    by: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """Causal attention of each row over itself: [1, T, heads, D].

    Args:
        query: [1, heads, T, D]; key and value the same, perhaps with fewer heads.
        starts: int32[rows + 1], the start of each row, then T.
        longest: The number of tokens of the longest row.
        scale: The factor of the scores; None: 1 / sqrt(D).
        window: How many tokens a token sees, itself included; None: all before it.
        by: A kernel to use instead of torch's.
    """
    by, dtype = by or find_kernel(), compute_dtype(query)
    assert by is not None
    states = [one[0].transpose(0, 1).to(dtype) for one in (query, key, value)]
    shared = query.shape[1] // key.shape[1]
    more: dict[str, Any] = {}
    if shared > 1:
        if "enable_gqa" in inspect.signature(by).parameters:
            more["enable_gqa"] = True
        else:
            states[1:] = (one.repeat_interleave(shared, dim=1) for one in states[1:])
    before = -1 if window is None else window - 1
    bounds = (starts, starts, longest, longest)
    out: torch.Tensor = by(*states, *bounds, scale=scale, window_size=(before, 0), **more)
    return out[None]


@torch.enable_grad()
def max_error(
    by: Callable[..., Any],
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    keys: int,
    width: int,
) -> float:
    """The largest relative distance of outputs and gradients from plain attention in fp32."""
    draw = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    shapes = [(1, count, total, width) for count in (heads, keys, keys, heads)]
    # The states are so large that attention is sharp: one wrong token is more than rounding error.
    *states, direction = (2 * torch.randn(s, generator=draw).to(device, dtype) for s in shapes)
    starts = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device=device)
    worst = 0.0
    with torch.autocast(device.type, enabled=False):
        for window in WINDOWS:
            for scale in (None, 0.3):
                ours = [one.clone().requires_grad_() for one in states]
                theirs = [one.float().requires_grad_() for one in states]
                (q, k, v), bounds = ours, (starts, max(LENGTHS))
                out = attend(q, k, v, *bounds, scale, window, by)
                (q, k, v) = theirs
                plain = _row_by_row(q, k, v, scale, window)
                gradients = (
                    torch.autograd.grad((one.float() * direction.transpose(1, 2)).sum(), of)
                    for one, of in ((out, ours), (plain, theirs))
                )
                pairs = [(out.detach(), plain.detach()), *zip(*gradients, strict=True)]
                worst = max(worst, *(relative_distance(a, b) for a, b in pairs))
    return worst


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    rows = []
    for q, k, v in zip(*(one.split(LENGTHS, dim=2) for one in (query, key, value)), strict=True):
        ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
        mask = ones.tril() if window is None else ones.tril() & ones.triu(1 - window)
        rows.append(scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True))
    return torch.cat(rows, dim=2).transpose(1, 2)
