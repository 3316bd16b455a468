"""torch's kernel for joined rows: what it is called with, and that a wrong one is not used."""

from itertools import pairwise

import pytest
import torch
from varlen_kernel import kernel

from talr_cli.training import varlen

CPU = torch.device("cpu")
HEADS = [(4, 4, 16), (6, 2, 8), (4, 1, 24)]


@pytest.mark.parametrize(("heads", "keys", "width"), HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_kernel_passes_the_check(heads, keys, width, dtype):
    off = varlen.max_error(kernel, CPU, dtype, heads, keys, width)
    assert off < (1e-5 if dtype == torch.float32 else varlen.BOUND)


def without_gqa(query, key, value, first, second, most, other, *, scale=None, window_size=(-1, -1)):
    """As in a torch that lacks `enable_gqa`."""
    assert key.shape == query.shape
    bounds = (first, second, most, other)
    return kernel(query, key, value, *bounds, scale=scale, window_size=window_size)


def test_shared_keys_are_repeated_for_a_kernel_without_gqa():
    assert varlen.max_error(without_gqa, CPU, torch.float32, 6, 2, 8) < 1e-5


def changed_kernel(change):
    """The kernel with other arguments than it was given."""

    def wrong(query, key, value, starts, _, most, __, *, scale, window_size, enable_gqa=False):
        given = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa, **change}
        before, after = given["window_size"]
        if given.pop("later", None) and before >= 0:
            given["window_size"] = (before + given_later, after)
        states = [query, key, value]
        if given.pop("tiled", None):  # head h takes the keys of h modulo their number
            shared = query.shape[1] // key.shape[1]
            states[1:] = (one.repeat(1, shared, 1) for one in states[1:])
            given["enable_gqa"] = False
        if given.pop("flat", None):
            states[2] = states[2].detach() + 0 * states[2]
        if (tile := given.pop("tile", None)) and most > tile:  # as if rows ended with their tile
            cuts = [at for a, b in pairwise(starts.tolist()) for at in range(a, b, tile)]
            starts, most = torch.tensor([*cuts, len(query)], dtype=torch.int32), tile
        if given.pop("joined", None):
            starts = torch.stack([starts[0], starts[-1]])
            most = int(starts[-1])
        return kernel(*states, starts, starts, most, most, **given)

    given_later = change.get("later", 0)
    return wrong


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"window_size": (-1, 0)}, id="no window"),
        pytest.param({"window_size": (-1, -1)}, id="not causal"),
        pytest.param({"later": 1}, id="a window one too wide"),
        pytest.param({"later": -1}, id="a window one too narrow"),
        pytest.param({"scale": None}, id="no scale"),
        pytest.param({"tiled": True}, id="the keys of other heads"),
        pytest.param({"flat": True}, id="no gradient of the values"),
        pytest.param({"joined": True}, id="rows that see each other"),
        pytest.param({"tile": 128}, id="tokens that see their own tile alone"),
    ],
)
def test_a_wrong_kernel_fails_the_check(change):
    assert varlen.max_error(changed_kernel(change), CPU, torch.bfloat16, 6, 2, 8) > 2 * varlen.BOUND


def test_no_kernel_is_used_on_a_cpu():
    states = torch.zeros(1, 2, 4, 8, dtype=torch.bfloat16)
    assert not varlen.can_attend(states, states, states, 0.0)
    assert not varlen.works(CPU, torch.bfloat16, 2, 2, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("heads", "keys", "width"), [(16, 2, 128), (8, 4, 256), (9, 3, 64)])
def test_torchs_kernel_is_right_on_this_gpu(heads, keys, width):
    assert varlen.works(torch.device("cuda", 0), torch.bfloat16, heads, keys, width)
