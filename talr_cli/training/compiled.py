"""Compiles a model's decoder layers with torch.compile, for fewer and larger kernels.

Each layer is compiled by itself and in place: weights keep their names, hooks and activation
checkpointing stay outside of the compiled code, and layers of the same kind are compiled once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from talr_cli.errors import UserError

BACKEND = "inductor"
# How often the same code may be recompiled: for each kind of layer, in training and evaluation,
# with and without gradient. torch's own limit of 8 is soon reached.
VARIANTS = 64


def check_compiler(device: str, sharded: bool) -> None:
    """Refuse to compile layers where it cannot work: on this device or machine, or with FSDP2.

    Raises:
        UserError: Says what to type or to install.
    """
    out = ", or leave trainer.compile out"
    if device not in ("cuda", "cpu"):
        raise UserError(f"trainer.compile=true is for CUDA GPUs and CPUs, not for {device}{out}")
    if sharded:
        raise UserError(
            "trainer.compile=true does not go with distributed=fsdp2: use distributed=ddp" + out
        )
    require_compiler("trainer.compile=true", device, out)


def require_compiler(what: str, device: str, out: str) -> None:
    """Refuse `what` where torch.compile lacks a compiler, which it needs in the first step only.

    Raises:
        UserError: Says what to install, or `out`.
    """
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError(f"{what} needs triton: pip install triton{out}")
    # On a CPU torch compiles C++; on a GPU triton compiles the C code that launches its kernels.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"{what} needs a compiler for C++, and there is no {compiler}: install one "
            f"(Debian, Ubuntu: apt install g++), or name yours in the environment as CXX{out}"
        )


def compile_layers(model: PreTrainedModel) -> None:
    """Have each decoder layer compiled when it first runs.

    Raises:
        UserError: No decoder layers are known of this model.
    """
    layers = _layers(model)
    if not layers:
        raise UserError(
            f"trainer.compile=true: no layers are known of this {model.config.model_type} model: "
            "leave it out"
        )
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for layer in layers:
        # transformers wraps a layer's forward pass in checkpointing code. Compiling that as well
        # would fail at some operation and leave the whole layer uncompiled.
        plain = type(layer).forward.__wrapped__.__get__(layer)
        compiled = torch.compile(plain, backend=BACKEND, dynamic=True)  # batches differ in length
        layer.forward = _checkpointed(layer, compiled)


def _checkpointed(layer: Any, compiled: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(partial(compiled, **kwargs), *args)
        return compiled(*args, **kwargs)

    return forward


def undo_compilation(model: PreTrainedModel) -> None:
    """Undo `compile_layers`."""
    for layer in _layers(model):
        vars(layer).pop("forward", None)


def _layers(model: PreTrainedModel) -> list[Any]:
    decoder = model.get_decoder()
    return [one for one in decoder.modules() if isinstance(one, GradientCheckpointingLayer)]
