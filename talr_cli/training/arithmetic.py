"""How an optimizer step is computed, and how many bytes each weight takes that it works on.

The basis of `memory.py` and `layer_memory.py`. Knows the optimizer and the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.methods.adapters import Oft
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.models.shape import Matrix, Shape

FP32, HALF = 4, 2  # bytes
FOUR_BITS = 0.52  # bytes: every 64 weights share a scale, which has 8 bits itself
_GATES = ("experts.gate_proj", "experts.up_proj", "experts.w1", "experts.w3")


@dataclass(frozen=True)
class Arithmetic:
    """On which device (cuda or cpu) a step is computed, how, and by how many processes."""

    device: str
    half: bool  # whether autocast computes in bf16 or fp16
    optimizer: Optimizer
    ranks: int = 1
    sharded: bool = False  # by FSDP2
    eager: bool = False  # attention that materialises the matrix of all pairs of tokens
    deterministic: bool = False  # on a GPU: sums have a fixed order


@dataclass(frozen=True)
class MicroBatch:
    """The size of what goes through the model in one forward pass, and how it is computed.

    Attributes:
        tokens: The number of tokens of all rows, padding included.
        targets: How many of them are targets.
        longest: The number of tokens of the longest row.
        checkpointing: Whether the layers are recomputed in the backward pass.
        accumulates: Whether there is a gradient of an earlier micro-batch of the step.
        varlen: Whether the rows are joined and one kernel attends over all of them, with sliding
            windows.
    """

    tokens: int
    targets: int
    longest: int
    checkpointing: bool
    accumulates: bool
    varlen: bool = False


def count_trained(shape: Shape, method: Method) -> int:
    """The number of trainable parameters."""
    if method.adapter is None:
        return shape.weights
    if isinstance(method.adapter, Oft):
        # A block of b inputs has a skew-symmetric matrix: (b - 1) / 2 parameters per input.
        return (method.adapter.block_size - 1) * count_inputs(adapted_matrices(shape, method)) // 2
    rank = adapter_rank(method)
    # PEFT treats the gate and up matrices of an expert as one matrix, with twice the rank.
    return rank * sum(
        (one.inputs + one.outputs * (1 + (one.name in _GATES))) * one.count
        for one in adapted_matrices(shape, method, experts=True)
    )


def adapter_rank(method: Method) -> int:
    """The rank of the LoRA adapters; 0 without such adapters."""
    return int(getattr(method.adapter, "rank", 0))


def adapted_matrices(shape: Shape, method: Method, experts: bool = False) -> list[Matrix]:
    """The matrices that get an adapter, without those of experts unless `experts` is true."""
    chosen = getattr(method.adapter, "target_modules", "all-linear")
    return [
        one
        for one in shape.matrices
        if (experts or not one.of_experts)
        and (isinstance(chosen, str) or any(_is_named(one, name) for name in chosen))
    ]


def _is_named(matrix: Matrix, name: str) -> bool:
    return matrix.name.rpartition(".")[2] == name.rpartition(".")[2]


def count_inputs(matrices: Sequence[Matrix]) -> int:
    """The sum of the matrices' input sizes."""
    return sum(one.inputs * one.count for one in matrices)


def bytes_per_trained_weight(how: Arithmetic) -> int:
    """Bytes of a trained weight, which are also those of its gradient."""
    return HALF if how.optimizer.bf16_weights else FP32


def bytes_per_layer_weight(method: Method, how: Arithmetic) -> float:
    """Bytes of a weight in the linear matrices of the layers."""
    if method.adapter is None:
        return bytes_per_trained_weight(how)
    base_dtype = getattr(method.adapter, "base_dtype", "float32")
    if base_dtype == "nf4":
        return FOUR_BITS
    return HALF if base_dtype == "auto" and how.half and not how.sharded else FP32


def bytes_per_unquantised_weight(method: Method, how: Arithmetic) -> float:
    """Bytes of a weight that has the dtype of the layers' matrices, but is never in 4 bits."""
    return max(bytes_per_layer_weight(method, how), HALF if how.half else FP32)
