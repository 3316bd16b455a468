"""What an optimizer step holds in memory, computed from a model's shape alone.

Knows the trainer (autocast's copies of the weights, the fused head, checkpointed layers), the
optimizer and the parts of a method; does not know the machine. Only tensors are counted: what an
allocator wastes, and what a process takes without any tensor, comes on top.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from talr_cli.methods.averaging import Ema
from talr_cli.methods.method import Method
from talr_cli.methods.regularisers import CHUNK_SIZE, L2, Kl
from talr_cli.models.shape import Shape
from talr_cli.training.arithmetic import (
    FP32,
    HALF,
    Arithmetic,
    Pass,
    held_bytes,
    trained_bytes,
    trained_numbers,
    unquantised_bytes,
)
from talr_cli.training.layer_memory import kept, passing_bytes

# Tokens and columns of the tiles in which TRL's head makes logits, and of what else makes them. On
# a CPU several tiles are held at once: so many columns as its caches hold.
TILE_TOKENS, TILE_COLUMNS = 4096, {"cuda": 32768, "cpu": 1024}
TARGETS_AT_ONCE = 512
# Tensors of a tile's size that are held at once: a kernel's own on a GPU, torch's on a CPU.
TILES = {"cuda": 1, "cpu": 6}
KL_TILES, TOPK_TILES = 6, 3


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of an optimizer step, by what they are for."""

    weights: float
    optimizer: float
    theta_0: float
    base: float
    mean: float
    gradient: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(astuple(self))

    @property
    def state(self) -> float:
        """What no smaller batch makes smaller."""
        return self.weights + self.optimizer + self.theta_0 + self.base + self.mean


def least(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of weights, gradient, optimizer and what the method keeps: without any row."""
    idle = step_memory(shape, method, how, Pass(0, 0, 0, checkpointing=True, accumulates=False))
    needed = idle.state + trained_bytes(how) * trained_numbers(shape, method) / _parts(how)
    # Whatever they are held in afterwards, weights are read in fp32, in the CPU's memory.
    return max(needed, FP32 * shape.weights) if how.device == "cpu" else needed


def step_memory(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> Memory:
    """The peak of an optimizer step whose forward passes are like `one`."""
    trained = trained_numbers(shape, method)
    gradient = trained_bytes(how) * trained / _parts(how)
    theta_0 = base = 0.0
    if isinstance(method.regulariser, L2) and method.regulariser.theta0_device != "cpu":
        kept = {"float32": FP32, "bfloat16": 2}.get(
            method.regulariser.theta0_dtype, shape.stored_bytes
        )
        theta_0 = kept * trained / _parts(how)
        theta_0 += FP32 * min(CHUNK_SIZE[how.device], trained)
    if isinstance(method.regulariser, Kl) and method.adapter is None:
        base = (shape.stored_bytes if how.half else FP32) * shape.weights
    # These three differ from moment to moment; the rest is there all the time.
    peak = max(_moments(shape, method, how, one, gradient), key=sum)
    return Memory(
        _weights(shape, method, how) / _parts(how) + _gathered(shape, how),
        _state(shape, method, how) / _parts(how),
        theta_0,
        base,
        FP32 * trained / _parts(how) if isinstance(method.merge, Ema) else 0.0,
        *peak,
    )


def _moments(
    shape: Shape, method: Method, how: Arithmetic, one: Pass, gradient: float
) -> list[tuple[float, float, float]]:
    """(gradient, activations, logits) at the moments of a step that may be its peak."""
    whole, trained = method.adapter is None, trained_numbers(shape, method)
    head = FP32 * shape.head if whole else 0  # the gradient of the head, as it is added up
    # Between the layers a token's state is in what embedding and norms are held in.
    between = shape.hidden * (trained_bytes(how) if whole else FP32)
    made = trained_bytes(how) * shape.head if whole else 0  # and as it is left, as the embedding's
    layers, layer = kept(shape, method, how, one)
    inputs: float = shape.layers * between * one.tokens
    copied = how.half and held_bytes(method, how) == FP32
    # Experts are multiplied in what they are held in.
    experts = 0 if shape.experts is None else shape.experts.weights
    copies: float = HALF * (shape.multiplied - experts) if copied else 0
    ends = 2 * between * (one.tokens + one.targets)
    passing = passing_bytes(shape, method, how, one)
    if one.checkpointing:
        forward: float = inputs
        scored, backward = inputs + ends, inputs + layer + ends
    else:
        forward = scored = backward = layers + copies
        scored += ends
    logits = _logits(shape, method, how, one)
    update = how.optimizer.temporary_bytes(trained // _parts(how), shape.head, how.device)
    # DDP's gradient stays where it is sent from.
    ddp = how.ranks > 1 and not how.sharded
    before = gradient if one.accumulates or ddp else 0
    alone = how.device == "cpu" and how.ranks == 1
    return [
        (before, forward + passing, 0),  # the last layer
        (before, forward + ends, logits),
        (before, scored, logits + head + (made if made < head else 0)),
        (before, backward + passing, made),
        (gradient, layer + passing, 0),  # the first layer, the last to go back through
        # In its second step DDP sorts the gradients into other buffers, by when they came.
        (2 * gradient * ddp, 0, 0),
        # The embedding, last of all: where it is the head, two gradients and then their sum; on a
        # CPU, in one process, one alone.
        (gradient, 0, made * (2 * shape.tied * (not alone) + one.accumulates)),
        (
            gradient,
            how.optimizer.temporary_bytes(trained // _parts(how), shape.head, how.device),
            0,
        ),
    ]


def _weights(shape: Shape, method: Method, how: Arithmetic) -> float:
    if method.adapter is None:
        return trained_bytes(how) * shape.weights
    experts = 0 if shape.experts is None else shape.experts.weights
    # Of these bitsandbytes takes none: it knows linear layers, and the head is left out.
    whole = experts + (0 if shape.tied else shape.head)
    return (
        held_bytes(method, how) * (shape.multiplied - experts)
        + unquantised_bytes(method, how) * whole
        + FP32 * (shape.head + trained_numbers(shape, method))
    )


def _state(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of the optimizer's state; embedding and head may be kept otherwise than the rest."""
    trained = trained_numbers(shape, method)
    if method.adapter is not None:
        return how.optimizer.state_bytes(trained)
    return how.optimizer.state_bytes(trained, shape.head, 0 if shape.tied else shape.head)


def _logits(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> float:
    """Bytes of the logits that are held at once, with the gradient of the head's part for them."""
    columns = min(TILE_COLUMNS[how.device], shape.vocabulary)
    made = min(one.targets, TILE_TOKENS) * columns * TILES[how.device] * FP32
    if how.device == "cpu":
        made += FP32 * columns * shape.hidden
    chunk = min(one.targets, TARGETS_AT_ONCE) * shape.vocabulary * FP32
    if "topk_entropy" in method.objective.outputs:
        made = max(made, TOPK_TILES * chunk + (HALF * shape.head if how.half else 0))
    if isinstance(method.regulariser, Kl):
        made = max(made, KL_TILES * chunk + FP32 * shape.head)
    return made


def _parts(how: Arithmetic) -> int:
    """Into how many parts the weights and all that goes with them are split."""
    return how.ranks if how.sharded else 1


def _gathered(shape: Shape, how: Arithmetic) -> float:
    """Under FSDP2 what is whole for a while: embedding and head, one layer and the next."""
    if not how.sharded:
        return 0
    return FP32 * (shape.weights - shape.multiplied + 2 * shape.multiplied / shape.layers)
