"""What an optimizer step holds in memory, computed from a model's shape alone.

Knows the trainer (autocast's copies of the weights, the fused head, checkpointed layers), the
optimizer and the parts of a method; does not know the machine. Only tensors are counted: what an
allocator wastes, and what a process takes without any tensor, comes on top.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from talr_cli.methods.adapters import Oft
from talr_cli.methods.averaging import Ema
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.regularisers import CHUNK, L2, Kl
from talr_cli.models.shape import Shape

FP32 = 4
HALF = 2
FOUR_BITS = 0.52  # bytes: half of one, and an 8-bit scale for every 64 numbers
# Tokens and columns of the tiles in which TRL's head makes logits. A CPU's tile is as wide as fits
# into its caches.
TILE_TOKENS, TILE_COLUMNS = 4096, {"cuda": 32768, "cpu": 1024}
TARGETS_AT_ONCE = 512
# Tensors of a tile's size that are held at once: a kernel's own on a GPU, torch's on a CPU.
TILES = {"cuda": 1, "cpu": 6}
KL_TILES = 6
ROTATIONS = 4  # tensors, each as large as what OFT trains, to make its rotations


@dataclass(frozen=True)
class Arithmetic:
    """Where a step is computed (cuda or cpu), how, and by how many processes."""

    device: str
    half: bool  # under autocast, in bf16 or fp16
    optimizer: Optimizer
    ranks: int = 1
    sharded: bool = False
    eager: bool = False  # attention that makes a matrix of all pairs of tokens


@dataclass(frozen=True)
class Pass:
    """What goes through the model at once, and how.

    Attributes:
        tokens: Of all rows, with their padding.
        targets: Of these, how many are scored.
        longest: Tokens of the longest row.
        checkpointing: Whether layers are computed again in the backward pass.
        accumulates: Whether another pass before it has left a gradient.
    """

    tokens: int
    targets: int
    longest: int
    checkpointing: bool
    accumulates: bool


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


def trained_numbers(shape: Shape, method: Method) -> int:
    """How many numbers the optimizer changes."""
    if method.adapter is None:
        return shape.weights
    if isinstance(method.adapter, Oft):
        # (b - 1) / 2 numbers for each input; `projections` counts inputs and outputs alike.
        return (method.adapter.block_size - 1) * shape.projections // 4 * shape.layers
    return _rank(method) * shape.projections * shape.layers


def _rank(method: Method) -> int:
    return int(getattr(method.adapter, "rank", 0))


def least(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of weights, gradient, optimizer and what the method keeps: without any row."""
    idle = step_memory(shape, method, how, Pass(0, 0, 0, checkpointing=True, accumulates=False))
    return idle.state + _trained_bytes(how) * trained_numbers(shape, method) / _parts(how)


def step_memory(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> Memory:
    """The peak of an optimizer step whose forward passes are like `one`."""
    trained = trained_numbers(shape, method)
    gradient = _trained_bytes(how) * trained / _parts(how)
    theta_0 = base = 0.0
    if isinstance(method.regulariser, L2) and method.regulariser.theta0_device != "cpu":
        kept = {"float32": FP32, "bfloat16": 2}.get(
            method.regulariser.theta0_dtype, shape.stored_bytes
        )
        theta_0 = kept * trained / _parts(how)
        theta_0 += FP32 * min(CHUNK[how.device], trained)
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
    whole = method.adapter is None
    head = FP32 * shape.head if whole else 0  # the gradient of the head, and of the embedding
    layer = _saved_by_layer(shape, method, how, one)
    inputs: float = shape.layers * FP32 * shape.hidden * one.tokens
    copied = how.half and not how.sharded and _held(method, how) == FP32
    copies: float = HALF * shape.multiplied if copied else 0
    ends = 2 * FP32 * shape.hidden * one.tokens + 2 * FP32 * shape.hidden * one.targets
    passing = _passing(shape, how) * one.tokens
    if one.checkpointing:
        forward: float = inputs
        scored, backward = inputs + ends, inputs + layer + ends
    else:
        forward = scored = backward = shape.layers * layer + copies
        scored += ends
    logits = _logits(shape, method, how, one)
    before = gradient if one.accumulates else 0
    alone = how.device == "cpu" and how.ranks == 1
    return [
        (before, forward + passing, 0),  # the last layer
        (before, forward + ends, logits),
        (before, scored, logits + head),
        (before, backward + passing, head),
        # The embedding, last of all: where it is the head, two gradients and then their sum; on a
        # CPU, in one process, one alone.
        (gradient, 0, head * (2 * shape.tied * (not alone) + one.accumulates)),
    ]


def _saved_by_layer(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> float:
    """What a layer keeps for its backward pass.

    Under autocast each matrix has a copy of its input in 2 bytes; norms and the states between
    layers are fp32.
    """
    each = HALF if how.half else FP32
    inputs = (5 * HALF if how.half else 2 * FP32) * shape.hidden
    norms = (2 if method.adapter is None else 1) * FP32 * shape.normalised
    attention = each * 2 * (shape.queries + shape.keys)
    mlp = 4 * each * shape.inner
    pairs = (FP32 + each) * shape.heads * one.longest if how.eager else 0
    adapters: float = each * shape.matrices * _rank(method)
    if how.half and _rank(method):  # under autocast each adapter has a copy of its matrix's inputs
        adapters += HALF * shape.projections / 2
    rotations = 0.0
    if isinstance(method.adapter, Oft):
        # Under autocast two copies of each matrix's inputs, before and after they are rotated.
        adapters = HALF * shape.projections if how.half else 0
        rotations = ROTATIONS * FP32 * trained_numbers(shape, method) / shape.layers
    return (norms + inputs + attention + mlp + pairs + adapters) * one.tokens + rotations


def _trained_bytes(how: Arithmetic) -> int:
    """Of a number that is trained, and of its gradient."""
    return HALF if how.optimizer.bf16_weights else FP32


def _held(method: Method, how: Arithmetic) -> float:
    """Bytes of a number in the layers' matrices."""
    if method.adapter is None:
        return _trained_bytes(how)
    base_dtype = getattr(method.adapter, "base_dtype", "float32")
    if base_dtype == "nf4":
        return FOUR_BITS
    return HALF if base_dtype == "auto" and how.half and not how.sharded else FP32


def _weights(shape: Shape, method: Method, how: Arithmetic) -> float:
    if method.adapter is None:
        return _trained_bytes(how) * shape.weights
    rest = shape.weights - shape.multiplied + trained_numbers(shape, method)
    return _held(method, how) * shape.multiplied + FP32 * rest


def _state(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of the optimizer's state; embedding and head may be kept otherwise than the rest."""
    trained = trained_numbers(shape, method)
    if method.adapter is not None:
        return how.optimizer.state(trained)
    return how.optimizer.state(trained, shape.head, 0 if shape.tied else shape.head)


def _passing(shape: Shape, how: Arithmetic) -> float:
    """Bytes of a token that come and go within a layer."""
    return (3 * shape.inner + 3 * shape.hidden) * (HALF if how.half else FP32)


def _logits(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> float:
    """Bytes of the logits that are held at once, with the gradient of the head's part for them."""
    columns = min(TILE_COLUMNS[how.device], shape.vocabulary)
    made = min(one.targets, TILE_TOKENS) * columns * TILES[how.device] * FP32
    if how.device == "cpu":
        made += FP32 * columns * shape.hidden
    if isinstance(method.regulariser, Kl):
        chunk = min(one.targets, TARGETS_AT_ONCE) * shape.vocabulary * FP32
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
