"""How many rows go through the model at once, and what is done when memory runs out.

The first number is an estimate from the model's shape and the free memory. Where it was too large
for a GPU it is halved. On a CPU nothing can be done: the kernel ends the process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from talr_cli.models.checks import positions
from talr_cli.models.device_memory import free_memory, give_back, ran_out
from talr_cli.models.shape import Shape, of_settings

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Item = TypeVar("Item")

# More are no faster: a GPU reads the weights once a step for all rows, and a CPU has few cores.
MOST = {"cuda": 256, "cpu": 32}
UNKNOWN = 64  # rows of a model that has no keys and values, or no shape that is known
TOKENS = 2048  # of a prompt and its answer, where their lengths are not known
# Tensors that are held at once: of a layer's values in linear attention, of the states that experts
# take and give, of all pairs of tokens.
LINEAR_STATES, EXPERT_STATES, EAGER_PAIRS = 16, 6, 7
SCORED = 16  # positions of a row at which logits are made, where choices are scored


@dataclass
class BatchSize:
    """Rows at once; halved for good, and the work repeated, when the GPU's memory runs out."""

    now: int

    @classmethod
    def of(cls, wanted: int | str, model: Any, tokens: int = TOKENS) -> BatchSize:
        """`wanted` is a number, or `auto`: as many rows of `tokens` as fit into the free memory."""
        return cls(rows_that_fit(model, tokens) if wanted == "auto" else int(wanted))

    def whole(self, work: Callable[[int], Result]) -> Result:
        """`work(rows at once)`, again with half as many each time the memory runs out."""
        while True:
            try:
                return work(self.now)
            except RuntimeError as error:
                if self.now == 1 or not ran_out(error):
                    raise
            # Not in the handler, where the exception's frames keep the tensors alive.
            self._halve()

    def each(self, items: Sequence[Item], work: Callable[[Sequence[Item]], None]) -> None:
        """`work` on all items, piece by piece; only the piece that failed is repeated."""
        done = 0

        def next_piece(size: int) -> int:
            piece = items[done : done + size]
            work(piece)
            return len(piece)

        while done < len(items):
            done += self.whole(next_piece)

    def _halve(self) -> None:
        log.warning("out of memory with %d rows at once: going on with %d", self.now, self.now // 2)
        self.now //= 2
        give_back()


@contextmanager
def set_aside(model: Any) -> Iterator[None]:
    """Inside, the model waits in the CPU's memory, and another may have the GPU's."""
    device = model.device
    _move(model, "cpu")
    try:
        yield
    finally:
        _move(model, device)


def _move(model: Any, device: Any) -> None:
    with torch.inference_mode(False):  # tensors made in that mode could not be trained
        model.to(device)
    give_back()


def fits_twice(model: Any) -> bool:
    """Whether there is room beside the model for another one like it, at work."""
    if model.device.type != "cuda":
        return True  # it would wait in the same memory
    return 1.5 * model.get_memory_footprint() < free_memory("cuda")


def rows_that_fit(model: Any, tokens: int) -> int:
    """How many rows of so many tokens, prompt and answer, the free memory holds: a power of two.

    What is free varies a little from run to run, and with the number of rows at once an answer may
    differ in rare tokens. A power of two is nearly always the same.
    """
    device = "cuda" if model.device.type == "cuda" else "cpu"
    shape, each = shape_of_model(model), model.dtype.itemsize
    if shape is None:
        return min(UNKNOWN, MOST[device])
    longest = positions(model.config.to_dict()) or tokens
    eager = model.config._attn_implementation == "eager"
    rows = free_memory(device) / row_bytes(shape, min(tokens, longest), each, eager)
    return 2 ** int(math.log2(min(max(rows, 1), MOST[device])))


def shape_of_model(model: Any) -> Shape | None:
    """The shape of a model that is loaded; None for one without keys and values."""
    tensors = {
        name: (tuple(one.shape), one.element_size()) for name, one in model.named_parameters()
    }
    return of_settings(model.config.get_text_config(decoder=True).to_dict(), tensors)


def row_bytes(shape: Shape, tokens: int, each: int, eager: bool = False) -> float:
    """Bytes that a row of so many tokens takes at most while it is read and answered.

    Args:
        each: Bytes of a number.
        eager: Whether attention makes a matrix of all pairs of tokens for each head.
    """
    # A layer's keys and values are copied where tokens are added.
    cache = cached_bytes(shape, tokens, each) * (1 + 1 / max(1, shape.attending))
    states = each * (3 * shape.hidden + 3 * shape.inner + 2 * shape.queries) * tokens
    if shape.linear is not None:  # without its kernels one such layer is computed in fp32
        states += LINEAR_STATES * 4 * shape.linear.values * tokens
    if shape.experts is not None:  # a copy for each expert that it is sent to, and what comes back
        states += EXPERT_STATES * each * shape.experts.taken * shape.hidden * tokens
    pairs = (1 + each) * tokens**2  # which of the tokens sees which: padding stands on the left
    if eager:
        pairs += EAGER_PAIRS * each * shape.heads * tokens**2
    return cache + states + pairs + (4 + each) * SCORED * shape.vocabulary


def cached_bytes(shape: Shape, tokens: int, each: int) -> int:
    """Of the keys and values of a row; layers with a sliding window hold less."""
    return 2 * shape.attending * shape.keys * tokens * each
