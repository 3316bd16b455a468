"""TRL's head: what it is held against before its kernel is used, and what follows without one."""

import logging

import pytest
import torch
from trl.kernels import chunked_logprob

from talr_cli.training import head_kernel

CPU = torch.device("cpu")
STATES = torch.zeros(1)


@pytest.fixture
def on_a_cpu_too(monkeypatch):
    """TRL takes a CPU for a device with Triton; and nothing is known of it yet."""
    monkeypatch.setattr(chunked_logprob, "_TRITON_AVAILABLE", True)
    monkeypatch.setattr(chunked_logprob, "_use_triton", lambda _: chunked_logprob._TRITON_AVAILABLE)
    head_kernel._has_kernel.cache_clear()
    yield
    head_kernel._has_kernel.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_operations_pass_the_check_of_the_kernel(dtype):
    assert (
        head_kernel.max_error(CPU, dtype) < head_kernel.BOUND.get(dtype, head_kernel.BOUND_HALF) / 2
    )


def test_a_kernel_that_cannot_be_built_is_not_used(on_a_cpu_too, monkeypatch, caplog):
    class NoCompiler:
        def __getitem__(self, grid):
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(chunked_logprob, "_forward_kernel", NoCompiler())
    with caplog.at_level(logging.WARNING):
        assert head_kernel.columns_at_once(STATES) == head_kernel.COLUMNS_BY_TORCH
    assert "Failed to find C compiler. Please specify via CC (it needs" in caplog.text
    assert not chunked_logprob._use_triton(CPU)
    assert head_kernel.max_error(CPU, torch.float32) < 1e-5  # what takes its place


def stand_in(monkeypatch, **changed):
    """TRL's operations in the place of its kernels, with some of their arguments changed."""

    class Kernel:
        def __init__(self, tile):
            self.tile = tile

        def __getitem__(self, grid):
            return lambda *args, **kwargs: self.tile(*args, **(kwargs | changed))

    class Triton:
        cdiv = staticmethod(lambda length, size: -(-length // size))

    monkeypatch.setattr(chunked_logprob, "triton", Triton, raising=False)
    for name in ("forward", "backward"):
        tile = getattr(chunked_logprob, f"_{name}_tile")
        monkeypatch.setattr(chunked_logprob, f"_{name}_kernel", Kernel(tile))


@pytest.mark.parametrize("forgotten", [{"HAS_SOFTCAP": False}, {"logit_scale": 1.0}])
def test_a_wrong_kernel_is_not_used(on_a_cpu_too, monkeypatch, caplog, forgotten):
    stand_in(monkeypatch, **forgotten)
    assert head_kernel.columns_at_once(STATES) == head_kernel.COLUMNS_BY_TORCH
    assert "cannot be used here" in caplog.text
    assert "it is off by" in caplog.text


def test_a_kernel_that_folds_only_the_first_block_of_a_tile_is_left_out(on_a_cpu_too, monkeypatch):
    class FirstBlock:
        def __getitem__(self, grid):
            return lambda tile, *args, **kwargs: fold(
                tile[:, :1024], *args[:-1], min(args[-1], 1024), **kwargs
            )

    stand_in(monkeypatch)
    fold = chunked_logprob._forward_tile
    monkeypatch.setattr(chunked_logprob, "_forward_kernel", FirstBlock())
    assert head_kernel.columns_at_once(STATES) == head_kernel.COLUMNS_BY_TORCH


def test_a_right_kernel_is_used(on_a_cpu_too, monkeypatch, caplog):
    stand_in(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        assert head_kernel.columns_at_once(STATES) == head_kernel.COLUMNS
    assert not caplog.text
