"""Kernels that a CPU has not, from their formulas; what they ask of their arguments is checked.

They see the numbers alone: tensors of a CPU.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.attention.varlen
import varlen_kernel

HALF = (torch.float16, torch.bfloat16)


def _addmm_in_fp32(sum_, one, other, out_dtype, *, beta=1, alpha=1, out=None):
    assert one.dtype == other.dtype
    assert one.dtype in HALF
    assert out_dtype == torch.float32 == sum_.dtype
    found = torch.addmm(sum_, one.float(), other.float(), beta=beta, alpha=alpha)
    return found if out is None else out.copy_(found)


def _varlen(query, key, value, starts, other, longest, _, is_causal, scale, window, shared, *rest):
    """torch's attention over joined rows, its demands checked."""
    assert not any(one is not None for one in rest)
    assert is_causal == (tuple(window) == (-1, 0))
    for one in (query, key, value):
        assert one.dtype in HALF
        assert one.dtype == query.dtype
        assert one.stride(-1) == 1
        assert one.shape[-1] <= 256
        assert one.shape[-1] % 8 == 0
    assert starts.is_contiguous()
    out = varlen_kernel.kernel(
        query, key, value, starts, other, longest, longest, scale=scale,
        window_size=tuple(window), enable_gqa=shared,
    )  # fmt: skip
    return (
        out,
        query.new_zeros(query.shape[1], len(query), dtype=torch.float32),
        starts.new_zeros(2),
    )


def _varlen_backward(
    direction, query, key, value, out, sums, starts, other, longest, _, causal, state, scale, window
):
    assert direction.shape == query.shape
    shared = query.shape[1] != key.shape[1]

    def gradients():
        states = [one.detach().requires_grad_() for one in (query, key, value)]
        bounds = (starts, other, longest, longest)
        made, *_ = _varlen(*states, *bounds, causal, scale, window, shared)
        return torch.autograd.grad(made, states, direction)

    # Inside of an operator nothing is differentiated; in another thread it is.
    with ThreadPoolExecutor(1) as other_thread:
        return other_thread.submit(gradients).result()


def as_triton(fold):
    """TRL's kernel for a tile of the head in torch; what Triton would read on a GPU is checked."""

    def checked(tile, stride, targets, *rest, **given):
        if not tile.is_cuda:
            return fold(tile, stride, targets, *rest, **given)
        vectors = [targets, *(one for one in rest if torch.is_tensor(one))]
        assert tile.stride() == (stride, 1)
        for one in vectors:
            assert one.is_cuda
            assert one.is_contiguous()
            assert one.shape == tile.shape[:1]
            assert one.dtype == (torch.int64 if one is targets else torch.float32)
        for name in ("logit_scale", "softcap", "inv_t"):
            assert type(given[name]) is float
        return fold(tile, stride, targets, *rest, **given)

    return checked


KERNELS = {
    torch.ops.aten.addmm.dtype: _addmm_in_fp32,
    torch.ops.aten.addmm.dtype_out: _addmm_in_fp32,
    torch.ops.torch_attn._varlen_attn.default: _varlen,
    torch.ops.torch_attn._varlen_attn_backward.default: _varlen_backward,
}
