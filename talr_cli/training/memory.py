"""The peak memory of an optimizer step, computed from a model's shape alone.

Knows the trainer (autocast's copies of the weights, the fused head, checkpointed layers), the
optimizer and the parts of a method; does not know the machine. Only tensors are counted: memory
that the allocator wastes, or that a process takes without any tensor, comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from talr_cli.methods.averaging import Ema
from talr_cli.methods.method import Method
from talr_cli.methods.regularisers import CHUNK_SIZE, L2, Kl
from talr_cli.models.shape import Shape
from talr_cli.training.arithmetic import (
    FP32,
    HALF,
    Arithmetic,
    MicroBatch,
    bytes_per_layer_weight,
    bytes_per_trained_weight,
    bytes_per_unquantised_weight,
    count_trained,
)
from talr_cli.training.layer_memory import activation_bytes, temporary_layer_bytes

# TRL's head computes logits in tiles of so many tokens and vocabulary columns. On a CPU a tile is
# as wide as its caches hold.
TILE_TOKENS, TILE_COLUMNS = 4096, {"cuda": 32768, "cpu": 1024}
# Other code computes logits of so many targets at once, over the whole vocabulary.
TARGETS_AT_ONCE = 512
# How many tensors of a tile's size are alive at once: in the GPU's kernel, in torch's CPU code.
TILES = {"cuda": 1, "cpu": 6}
KL_TILES = 5


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of an optimizer step.

    Attributes:
        state: What does not depend on the batch: weights, optimizer, and what the method keeps.
        varying: Gradient, activations and logits, when they are most together.
    """

    state: float
    varying: float

    @property
    def total(self) -> float:
        return self.state + self.varying


def minimum_bytes(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes that any batch needs: weights, gradient, optimizer and what the method keeps."""
    empty = MicroBatch(0, 0, 0, checkpointing=True, accumulates=False)
    gradient = bytes_per_trained_weight(how) * count_trained(shape, method) / _shards(how)
    needed = step_memory(shape, method, how, empty).state + gradient
    # Weights are loaded in fp32 into the CPU's memory, whatever dtype they get afterwards.
    return max(needed, FP32 * (shape.weights + shape.others)) if how.device == "cpu" else needed


def step_memory(shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch) -> Memory:
    """The peak of an optimizer step whose micro-batches are like `batch`."""
    trained, shards = count_trained(shape, method), _shards(how)
    gradient = bytes_per_trained_weight(how) * trained / shards
    state = _weight_bytes(shape, method, how) / shards + _unsharded_bytes(shape, how)
    state += _optimizer_bytes(shape, method, how) / shards
    if isinstance(method.regulariser, L2) and method.regulariser.theta0_device != "cpu":
        kept = {"float32": FP32, "bfloat16": 2}.get(
            method.regulariser.theta0_dtype, shape.stored_bytes
        )
        state += kept * trained / shards + FP32 * min(CHUNK_SIZE[how.device], trained)
    if isinstance(method.regulariser, Kl) and method.adapter is None:  # a copy of the base
        state += (shape.stored_bytes if how.half else FP32) * (shape.weights + shape.others)
    if isinstance(method.merge, Ema):
        state += FP32 * trained / shards
    return Memory(state, max(map(sum, _candidate_peaks(shape, method, how, batch, gradient))))


def _candidate_peaks(
    shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch, gradient: float
) -> list[tuple[float, float, float]]:
    """(gradient, activations, logits) in bytes at each moment of a step that may be its peak."""
    is_full, trained = method.adapter is None, count_trained(shape, method)
    # Between the layers hidden states have the dtype of embedding and norms.
    between = shape.hidden * (bytes_per_trained_weight(how) if is_full else FP32)
    head_sum = FP32 * shape.head if is_full else 0  # the head's gradient, accumulated in fp32
    # The head's gradient in the dtype of its weights; the embedding's has the same size.
    head = bytes_per_trained_weight(how) * shape.head if is_full else 0
    layers, largest = activation_bytes(shape, method, how, batch)
    inputs: float = shape.layers * between * batch.tokens
    copied = how.half and bytes_per_layer_weight(method, how) == FP32
    # Experts are computed in the dtype that their weights have, without a copy.
    experts = 0 if shape.experts is None else shape.experts.weights
    copies: float = HALF * (shape.multiplied - experts) if copied else 0
    ends = 2 * between * (batch.tokens + batch.targets)
    temporary = temporary_layer_bytes(shape, method, how, batch)
    if batch.checkpointing:
        forward: float = inputs
        scored, backward = inputs + ends, inputs + largest + ends
    else:
        forward = scored = backward = layers + copies
        scored += ends
    logits = _logit_bytes(shape, how, batch)
    kl = isinstance(method.regulariser, Kl)
    update = how.optimizer.temporary_bytes(trained // _shards(how), shape.head, how.device)
    # DDP keeps the gradient in the buffers from which it is sent.
    ddp = how.ranks > 1 and not how.sharded
    before = gradient if batch.accumulates or ddp else 0
    is_sparse = how.device == "cpu" and how.ranks == 1
    return [
        (before, forward + temporary, 0),  # forward pass of the last layer
        (before, forward + ends, logits),  # forward pass of the head
        # Its backward pass, behind that of a regulariser with a gradient of the head of its own.
        (before, scored, logits + head_sum * (3 if kl else 1) + (head if head < head_sum else 0)),
        (before, scored, _whole_logit_bytes(shape, method, how, batch)),
        (before, backward + temporary, head),  # backward pass of the last layer
        (gradient, largest + temporary, 0),  # backward pass of the first layer
        # In its second step DDP moves the gradients into other buffers, in the order of arrival.
        (2 * gradient * ddp, 0, 0),
        # Backward pass of the embedding. If it is tied to the head, there are two gradients and
        # then their sum; on a CPU in one process the embedding's is sparse (see cpu_memory).
        (gradient, 0, head * (shape.tied * (1 if is_sparse else 2) + batch.accumulates)),
        (gradient, update, 0),
    ]


def _weight_bytes(shape: Shape, method: Method, how: Arithmetic) -> float:
    if method.adapter is None:
        return bytes_per_trained_weight(how) * (shape.weights + shape.others)
    experts = 0 if shape.experts is None else shape.experts.weights
    # bitsandbytes quantises linear layers only, and not the head.
    unquantised = experts + (0 if shape.tied else shape.head)
    return (
        bytes_per_layer_weight(method, how) * (shape.multiplied + shape.others - experts)
        + bytes_per_unquantised_weight(method, how) * unquantised
        + FP32 * (shape.head + count_trained(shape, method))
    )


def _optimizer_bytes(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of the optimizer's state; those of embedding and head may be counted separately."""
    trained = count_trained(shape, method)
    if method.adapter is not None:
        return how.optimizer.state_bytes(trained)
    return how.optimizer.state_bytes(trained, shape.head, 0 if shape.tied else shape.head)


def _logit_bytes(shape: Shape, how: Arithmetic, batch: MicroBatch) -> float:
    """Bytes of the fused head's logits, and of the part of the head's gradient with them."""
    columns = min(TILE_COLUMNS[how.device], shape.vocabulary)
    made = min(batch.targets, TILE_TOKENS) * columns * TILES[how.device] * FP32
    if how.device == "cpu":
        made += FP32 * columns * shape.hidden
    return made


def _whole_logit_bytes(shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch) -> float:
    """Bytes of the logits over the whole vocabulary, and of what is alive of the head with them."""
    numbers = min(batch.targets, TARGETS_AT_ONCE) * shape.vocabulary
    projected = (HALF if how.half else FP32) * numbers
    logits, copy = FP32 * numbers, HALF * shape.head * how.half  # the copy is autocast's
    made: float = 0
    if "topk_entropy" in method.objective.outputs:
        made = projected + max(copy, logits * (3 if shape.capped else 2 if how.half else 1))
    if isinstance(method.regulariser, Kl):
        # While logits are computed again for the backward pass, the head's gradient by those of
        # other targets may be there.
        others = FP32 * shape.head * (method.adapter is None and batch.targets > TARGETS_AT_ONCE)
        tiles = KL_TILES + shape.capped
        made = max(made, tiles * logits, (tiles - 1) * logits + copy + others)
    return made


def _shards(how: Arithmetic) -> int:
    """Into how many parts FSDP2 splits the weights, their gradient and the optimizer's state."""
    return how.ranks if how.sharded else 1


def _unsharded_bytes(shape: Shape, how: Arithmetic) -> float:
    """Bytes that FSDP2 gathers for a while: embedding, head, the current layer and the next."""
    if not how.sharded:
        return 0
    return FP32 * (shape.weights - shape.multiplied + 2 * shape.multiplied / shape.layers)
