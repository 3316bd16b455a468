"""What the decoder layers hold of a pass for their backward pass, and while they are computed.

By the tensors that torch keeps in transformers' models, counted with fake tensors at the sizes of
the models that conf/model names.
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
    Pass,
    adapted,
    adapter_rank,
    inputs_of,
    trained_numbers,
    unquantised_bytes,
)

STATES = 23.5  # of the size of its values: what a layer of linear attention keeps, by torch alone
ROTATIONS = 4  # of the size of what OFT trains: what a rotation is made by
MULTIPROCESSORS = 132  # of an H100


def kept(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> tuple[float, float]:
    """Bytes that all layers keep for their backward pass, and those that the largest keeps."""
    # Of a token, in all layers, whatever their kind.
    norms = (2 if method.adapter is None else 1) * FP32 * shape.normalised
    alike = norms + _of_matrices(shape, method, how) + _of_experts(shape, method, how)
    kinds = _kinds(shape, method, how, one)
    weights: float = _adapted_experts(shape, method, how)
    if isinstance(method.adapter, Oft):
        weights += ROTATIONS * FP32 * trained_numbers(shape, method)
    layers = alike + sum(count * held for count, held in kinds)
    largest = alike / shape.layers + max((held for count, held in kinds if count), default=0)
    return layers * one.tokens + weights, largest * one.tokens + weights / shape.layers


def _of_matrices(shape: Shape, method: Method, how: Arithmetic) -> float:
    """What the layers' matrices keep of a token, and the MLPs between them.

    Under autocast each matrix has a copy of its input in 2 bytes; else those of one input share it.
    Where its weights are frozen it needs none, but its adapter does.
    """
    each = HALF if how.half else FP32
    inner = shape.inner
    if shape.experts is not None:
        inner -= shape.experts.taken * shape.experts.inner
    chosen = adapted(shape, method)
    mlp = 3 * (FP32 if isinstance(method.adapter, Oft) else each) * inner * shape.layers
    inputs = inputs_of(chosen)
    if not how.half or how.optimizer.bf16_weights:
        inputs = min(inputs, (2 * shape.hidden + shape.queries + inner) * shape.layers)
    rank = adapter_rank(method) * sum(one.count for one in chosen)
    results = 0
    if getattr(method.adapter, "dora", False):  # of the base and of the adapter, to be weighed
        results = 2 * sum(one.outputs * one.count for one in chosen)
    return mlp + each * (inputs + rank + results)


def _of_experts(shape: Shape, method: Method, how: Arithmetic) -> float:
    """What the layers' experts keep of a token: autocast does not know their product."""
    experts = shape.experts
    if experts is None:
        return 0
    numbers = (6 if experts.clamped else 3) * experts.inner + shape.hidden
    if method.adapter is None:
        numbers += experts.inner + shape.hidden  # the inputs of their matrices
    return unquantised_bytes(method, how) * experts.layers * experts.taken * numbers


def _adapted_experts(shape: Shape, method: Method, how: Arithmetic) -> float:
    """Experts with their adapters, which PEFT adds up into whole matrices."""
    experts = shape.experts
    if experts is None or not experts.listed or not adapter_rank(method):
        return 0
    return unquantised_bytes(method, how) * experts.weights


def _kinds(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> list[tuple[int, float]]:
    """(layers, what each keeps of a token) by how they attend."""
    each = HALF if how.half else FP32
    repeated = 2 * each * (shape.queries - shape.keys)  # keys and values for each query
    full: float = each * (shape.queries + 2 * shape.keys)
    if how.half and method.adapter is not None:
        full += each * shape.queries  # what comes out: what the adapter has of it is a copy
    if how.eager:
        full += repeated + (FP32 + each) * shape.heads * one.longest
    windowed = full
    if not (how.eager or one.varlen) and one.longest > shape.window:
        windowed += repeated + each * one.longest  # a mask of each row
    kinds = [(shape.windowed, windowed), (shape.attending - shape.windowed, full)]
    if shape.linear is not None:
        keys, values = shape.linear.keys, shape.linear.values
        linear = STATES * FP32 * values + 3 * each * (2 * keys + values)
        kinds.append((shape.linear.layers, linear))
    return kinds


def passing_bytes(shape: Shape, method: Method, how: Arithmetic, one: Pass) -> float:
    """Bytes that come and go within a layer."""
    each = HALF if how.half else FP32
    mlp: float = (3 * shape.inner + 3 * shape.hidden) * each
    if shape.experts is not None:
        mlp = 3 * each * shape.hidden + unquantised_bytes(method, how) * shape.experts.taken * (
            3 * shape.experts.inner + 2 * shape.hidden
        )
    attention: float = 0
    if how.eager:
        attention = (FP32 + each) * shape.heads * one.longest
    elif how.device == "cuda" and how.half:
        # Flash attention adds up the gradient of the queries, in a fixed order in several parts.
        rows = max(1, one.tokens // max(1, one.longest))
        parts = math.ceil(MULTIPROCESSORS / (rows * shape.heads)) if how.deterministic else 1
        attention = FP32 * parts * shape.queries
    weights: float = _adapted_experts(shape, method, how) / shape.layers
    if getattr(method.adapter, "dora", False):  # the norms of a matrix with its adapter
        weights += 3 * FP32 * max(one.inputs * one.outputs for one in shape.matrices)
    return max(mlp, attention) * one.tokens + weights
