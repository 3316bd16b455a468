"""Memory of the decoder layers: activations kept for the backward pass, and temporary tensors.

The formulas count the tensors that torch keeps in transformers' models. They were found with fake
tensors, at the sizes of the models in conf/model.
"""

from __future__ import annotations

import math

from talr_cli.methods.adapters import Oft
from talr_cli.methods.method import Method
from talr_cli.models.shape import Shape
from talr_cli.training.arithmetic import (
    FP32,
    HALF,
    Arithmetic,
    MicroBatch,
    adapted_matrices,
    adapter_rank,
    bytes_per_unquantised_weight,
    count_inputs,
    count_trained,
)

LINEAR_STATES = 23.5  # what linear attention in plain torch keeps, in multiples of its values
ROTATIONS = 4  # what OFT keeps to make its rotations, in multiples of its trained parameters
MULTIPROCESSORS = 132  # of an H100


def activation_bytes(
    shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch
) -> tuple[float, float]:
    """(bytes that all layers keep for the backward pass, bytes that the largest layer keeps)."""
    # Per token, in all layers, whatever their kind.
    norms = (2 if method.adapter is None else 1) * FP32 * shape.normalised
    alike = norms + _of_matrices(shape, method, how) + _of_experts(shape, method, how)
    alike += shape.layers * shape.dropped * shape.hidden * _mask_bytes(how)
    kinds = _kinds(shape, method, how, batch)
    weights: float = _adapted_experts(shape, method, how)
    if isinstance(method.adapter, Oft):
        weights += ROTATIONS * FP32 * count_trained(shape, method)
    layers = alike + sum(count * held for count, held in kinds)
    largest = alike / shape.layers + max((held for count, held in kinds if count), default=0)
    return layers * batch.tokens + weights, largest * batch.tokens + weights / shape.layers


def _of_matrices(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes per token that the matrices of all layers keep, and the MLPs between them.

    Under autocast each matrix keeps a copy of its input in 2 bytes; otherwise matrices with the
    same input share it. A frozen matrix keeps nothing, but its adapter does.
    """
    each = HALF if how.half else FP32
    inner = shape.inner
    if shape.experts is not None:
        inner -= shape.experts.per_token * shape.experts.inner
    chosen = adapted_matrices(shape, method)
    mlp = shape.mlp_states * (FP32 if isinstance(method.adapter, Oft) else each)
    mlp *= inner * shape.layers
    inputs = count_inputs(chosen)
    if not how.half or how.optimizer.bf16_weights:
        inputs = min(inputs, (2 * shape.hidden + shape.queries + inner) * shape.layers)
    rank = adapter_rank(method) * sum(one.count for one in chosen)
    results = 0
    if getattr(method.adapter, "dora", False):  # the outputs of the base and of the adapter
        results = 2 * sum(one.outputs * one.count for one in chosen)
    return mlp + each * (inputs + rank + results)


def _of_experts(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes per token that the experts of all layers keep.

    Autocast does not apply to the grouped matrix product that computes them.
    """
    experts = shape.experts
    if experts is None:
        return 0
    numbers = (6 if experts.clamped else 3) * experts.inner + shape.hidden
    if method.adapter is None:
        numbers += experts.inner + shape.hidden  # the inputs of their matrices, for the gradient
    return bytes_per_unquantised_weight(method, how) * experts.layers * experts.per_token * numbers


def _adapted_experts(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Bytes of the experts' weights, to which PEFT adds their adapters in a full copy."""
    experts = shape.experts
    if experts is None or not experts.listed or not adapter_rank(method):
        return 0
    return bytes_per_unquantised_weight(method, how) * experts.weights


def _kinds(
    shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch
) -> list[tuple[int, float]]:
    """(number of layers, bytes per token that each keeps), for each kind of attention."""
    each = HALF if how.half else FP32
    repeated = 2 * each * (shape.queries - shape.keys)  # keys and values, repeated for the queries
    full: float = each * (shape.queries + 2 * shape.keys)
    if how.half and method.adapter is not None:
        full += each * shape.queries  # the output, of which the adapter keeps another copy
    if _makes_pairs(shape, how):
        full += repeated + (FP32 + each) * shape.heads * batch.longest
        if shape.attention_dropout:
            full += _mask_bytes(how) * shape.heads * batch.longest
    windowed = full
    if not (_makes_pairs(shape, how) or batch.varlen) and batch.longest > shape.window:
        windowed += repeated + each * batch.longest  # a mask of each row
    kinds = [(shape.windowed, windowed), (shape.attending - shape.windowed, full)]
    if shape.linear is not None:
        keys, values = shape.linear.keys, shape.linear.values
        linear = LINEAR_STATES * FP32 * values + 3 * each * (2 * keys + values)
        kinds.append((shape.linear.layers, linear))
    return kinds


def _makes_pairs(shape: Shape, how: Arithmetic) -> bool:
    """Whether attention makes the matrix of all pairs of tokens: on a CPU also for dropout."""
    return how.eager or (shape.attention_dropout and how.device == "cpu")


def _mask_bytes(how: Arithmetic) -> int:
    """Bytes of an element of a dropout's mask: on a CPU it has the dtype of what is dropped."""
    return 1 if how.device == "cuda" else HALF if how.half else FP32


def temporary_layer_bytes(
    shape: Shape, method: Method, how: Arithmetic, batch: MicroBatch
) -> float:
    """Bytes that are allocated and freed within a layer."""
    each = HALF if how.half else FP32
    mlp: float = (3 * shape.inner + 3 * shape.hidden) * each
    if shape.experts is not None:
        numbers = shape.experts.per_token * (3 * shape.experts.inner + 2 * shape.hidden)
        mlp = 3 * each * shape.hidden + bytes_per_unquantised_weight(method, how) * numbers
    attention: float = 0
    if _makes_pairs(shape, how):
        attention = (FP32 + each) * shape.heads * batch.longest
    elif how.device == "cuda" and how.half:
        # Flash attention accumulates the queries' gradient in fp32; in several parts if the order
        # of the sums is to be fixed.
        rows = max(1, batch.tokens // max(1, batch.longest))
        parts = math.ceil(MULTIPROCESSORS / (rows * shape.heads)) if how.deterministic else 1
        attention = FP32 * parts * shape.queries
    weights: float = _adapted_experts(shape, method, how) / shape.layers
    if getattr(method.adapter, "dora", False):  # to compute the norms of a matrix and its adapter
        weights += 3 * FP32 * max(one.inputs * one.outputs for one in shape.matrices)
    return max(mlp, attention) * batch.tokens + weights
