"""TRL's fused head: by its Triton kernel if that runs and is correct, else by torch's operations.

Triton compiles a kernel when it first runs, for which it needs a C compiler and Python's headers.
Container images often lack both, and a training would fail at its first step. So the kernel is
tried first, on the GPU itself.
"""

from __future__ import annotations

import logging
from functools import cache, partial

import torch
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

from talr_cli.training.kernel_trial import compute_dtype, relative_distance, try_kernel
from talr_cli.training.memory import TILE_COLUMNS

log = logging.getLogger(__name__)

# Vocabulary columns of a tile, with the kernel and without it.
COLUMNS, COLUMNS_BY_TORCH = TILE_COLUMNS["cuda"], TILE_COLUMNS["cpu"]
# Of the trial. A tile is folded 1024 columns at a time: here two times, not full at the end.
TOKENS, VOCABULARY, SIZE, TILE = 12, 2500, 16, 1100
CAP, SCALE = 5.0, 0.5
# The largest relative errors of values and gradients, in fp32 and in half precision.
BOUND = {torch.float32: 1e-3}
BOUND_HALF = 2e-2


def columns_at_once(hidden: torch.Tensor) -> int:
    """How many vocabulary columns the head computes at once for these hidden[N, H].

    On a GPU the kernel is tried in the first call; if it fails, this process does not use it.
    """
    found = _has_kernel(hidden.device, compute_dtype(hidden))
    return COLUMNS if found else COLUMNS_BY_TORCH


@cache
def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    if not chunked_logprob._use_triton(device):
        return False
    off, problem = try_kernel(partial(max_error, device, dtype))
    if off <= BOUND.get(dtype, BOUND_HALF):
        return True
    chunked_logprob._TRITON_AVAILABLE = False
    log.warning(
        "head: Triton's kernel cannot be used here, torch's operations take its place and more "
        "time: %.300s (it needs a compiler for C and Python's headers: Debian, Ubuntu: apt install "
        "gcc python3-dev)",
        problem,
    )
    return False


@torch.enable_grad()
def max_error(device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative distance of values and gradients from the plain formula in fp32."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, SIZE), (VOCABULARY, SIZE), (VOCABULARY,))
    values = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw).to(device)
    with torch.autocast(device.type, enabled=False):
        ours = [one.clone().requires_grad_() for one in values]
        theirs = [one.float().requires_grad_() for one in values]
        found = ChunkedLogProbFunction.apply(
            *ours, targets, 1.0, TILE, CAP, SCALE, ("entropy", "log_sum_sq_probs")
        )[:3]
        hidden, weight, bias = theirs
        logits = CAP * torch.tanh(SCALE * (hidden @ weight.T + bias) / CAP)
        all_probs = logits.log_softmax(-1)
        plain = [
            all_probs.gather(1, targets[:, None])[:, 0],
            -(all_probs.exp() * all_probs).sum(-1),
            (2 * all_probs).logsumexp(-1),
        ]
        pairs = list(zip(found, plain, strict=True))
        for one, other in pairs[:2]:  # the third has no gradient
            gradients = (
                torch.autograd.grad(of.sum(), among, retain_graph=True)
                for of, among in ((one, ours), (other, theirs))
            )
            pairs += zip(*gradients, strict=True)
        return max(relative_distance(a, b) for a, b in pairs)
