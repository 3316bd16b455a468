"""How an optimizer step is computed, and in how many bytes each number lies that it is about.

Knows the optimizer and the adapter; what goes through the model at once is a `Pass`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.methods.adapters import Oft
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.models.shape import Matrix, Shape

FP32, HALF = 4, 2  # bytes
FOUR_BITS = 0.52  # and for 64 numbers a scale, which is in 8 bits itself
_GATES = ("experts.gate_proj", "experts.up_proj", "experts.w1", "experts.w3")


@dataclass(frozen=True)
class Arithmetic:
    """Where a step is computed (cuda or cpu), how, and by how many processes."""

    device: str
    half: bool  # under autocast, in bf16 or fp16
    optimizer: Optimizer
    ranks: int = 1
    sharded: bool = False
    eager: bool = False  # attention that makes a matrix of all pairs of tokens
    deterministic: bool = False  # on a GPU: sums in a fixed order


@dataclass(frozen=True)
class Pass:
    """What goes through the model at once, and how.

    Attributes:
        tokens: Of all rows, with their padding.
        targets: Of these, how many are scored.
        longest: Tokens of the longest row.
        checkpointing: Whether layers are computed again in the backward pass.
        accumulates: Whether another pass before it has left a gradient.
        varlen: Whether its rows are joined for a kernel that takes them all at once, and windows.
    """

    tokens: int
    targets: int
    longest: int
    checkpointing: bool
    accumulates: bool
    varlen: bool = False


def trained_numbers(shape: Shape, method: Method) -> int:
    """How many numbers the optimizer changes."""
    if method.adapter is None:
        return shape.weights
    if isinstance(method.adapter, Oft):
        # Of a block of b inputs (b - 1) / 2 for each.
        return (method.adapter.block_size - 1) * inputs_of(adapted(shape, method)) // 2
    rank = adapter_rank(method)
    # PEFT takes an expert's two matrices whose outputs are multiplied as one, of twice the rank.
    return rank * sum(
        (one.inputs + one.outputs * (1 + (one.name in _GATES))) * one.count
        for one in adapted(shape, method, experts=True)
    )


def adapter_rank(method: Method) -> int:
    return int(getattr(method.adapter, "rank", 0))


def adapted(shape: Shape, method: Method, experts: bool = False) -> list[Matrix]:
    """The matrices that the adapter is put on; those of experts only if asked for."""
    chosen = getattr(method.adapter, "target_modules", "all-linear")
    return [
        one
        for one in shape.matrices
        if (experts or not one.of_experts)
        and (isinstance(chosen, str) or any(_is_named(one, name) for name in chosen))
    ]


def _is_named(matrix: Matrix, name: str) -> bool:
    return matrix.name.rpartition(".")[2] == name.rpartition(".")[2]


def inputs_of(matrices: Sequence[Matrix]) -> int:
    return sum(one.inputs * one.count for one in matrices)


def trained_bytes(how: Arithmetic) -> int:
    """Of a number that is trained, and of its gradient."""
    return HALF if how.optimizer.bf16_weights else FP32


def held_bytes(method: Method, how: Arithmetic) -> float:
    """Bytes of a number in the layers' matrices."""
    if method.adapter is None:
        return trained_bytes(how)
    base_dtype = getattr(method.adapter, "base_dtype", "float32")
    if base_dtype == "nf4":
        return FOUR_BITS
    return HALF if base_dtype == "auto" and how.half and not how.sharded else FP32


def unquantised_bytes(method: Method, how: Arithmetic) -> float:
    """Bytes of a number that is held as those are, but never in 4 bits."""
    return max(held_bytes(method, how), HALF if how.half else FP32)
