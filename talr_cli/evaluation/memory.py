"""The batch size of an evaluation, and what happens when memory runs out.

It starts as an estimate from the model's shape and the free memory. If it was too large for a GPU,
it is halved; where a single row is too much, the error says what would help. On a CPU neither is
possible, since the kernel kills the process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from talr_cli.models.checks import max_positions
from talr_cli.models.device_memory import (
    explain_shortage,
    free_memory,
    is_out_of_memory,
    release_memory,
)
from talr_cli.models.shape import Shape, shape_from_config

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Item = TypeVar("Item")

# Larger batches are no faster: a GPU reads the weights once per step for all rows anyway, and a CPU
# has few cores.
MOST = {"cuda": 256, "cpu": 32}
UNKNOWN = 64  # for a model without keys and values, or of unknown shape
TOKENS = 2048  # assumed for a prompt and its answer, if their lengths are not known
# How many tensors are alive at once: of the size of a layer's values in linear attention, of the
# experts' inputs and outputs, of all pairs of tokens.
LINEAR_STATES, EXPERT_STATES, EAGER_PAIRS = 16, 6, 7
SCORED = 16  # positions of a row with logits, where choices are scored


@dataclass
class BatchSize:
    """A batch size that is halved for good, and the work repeated, when a GPU's memory runs out."""

    current: int

    @classmethod
    def of(cls, wanted: int | str, model: Any, tokens: int = TOKENS) -> BatchSize:
        """The batch size that the user typed, for rows of so many tokens.

        Args:
            wanted: A number, or `auto` for as many rows as fit into the free memory.
        """
        return cls(rows_that_fit(model, tokens) if wanted == "auto" else int(wanted))

    def leave_room_for(self, scored: int, model: Any, tokens: int) -> None:
        """Lower it for rows with logits at more positions than `of` allows for, if memory asks."""
        if scored > SCORED:
            self.current = min(self.current, _rows_in_memory(model, tokens, scored))

    def retrying(self, work: Callable[[int], Result]) -> Result:
        """The result of `work(batch size)`, called again with half of it if memory runs out."""
        while True:
            try:
                return work(self.current)
            except RuntimeError as error:
                if self.current == 1 or not is_out_of_memory(error):
                    raise
            # Outside of the handler, where the exception's frames would keep tensors alive.
            self._halve()

    def in_batches(self, items: Sequence[Item], work: Callable[[Sequence[Item]], None]) -> None:
        """Call `work` with batches of all items; if memory runs out, it repeats only that batch."""
        done = 0

        def next_piece(size: int) -> int:
            piece = items[done : done + size]
            work(piece)
            return len(piece)

        while done < len(items):
            done += self.retrying(next_piece)

    def _halve(self) -> None:
        log.warning(
            "out of memory with %d rows at once: going on with %d", self.current, self.current // 2
        )
        self.current //= 2
        release_memory()


def unless_out_of_memory(work: Callable[[], Result]) -> Result | None:
    """The result of `work`; None if memory runs out."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return None


def explain_out_of_memory(work: str, device: str, *ways: str) -> AbstractContextManager[None]:
    """Turn running out of memory, with the smallest batches, into a UserError of one line.

    Args:
        work: What is done, such as "answering the domain's rows".
        ways: What would help, besides another device.
    """
    elsewhere = "a machine with more memory" if device == "cpu" else "device=cpu"
    others = f"; or, for all runs of the study alike, {', or '.join(ways)}" if ways else ""
    return explain_shortage(work, device, f"take {elsewhere}{others}")


@contextmanager
def moved_to_cpu(model: Any) -> Iterator[None]:
    """Within this context the model is in the CPU's memory, so that another may use the GPU's."""
    device = model.device
    _move(model, "cpu")
    try:
        yield
    finally:
        _move(model, device)


def _move(model: Any, device: Any) -> None:
    with torch.inference_mode(False):  # tensors created in that mode could not be trained
        model.to(device)
    release_memory()


def has_room_for_another(model: Any) -> bool:
    """Whether the GPU has room for another model of the same size, and for running it."""
    if model.device.type != "cuda":
        return True  # moving the model to the CPU would not free any memory
    return 1.5 * model.get_memory_footprint() < free_memory("cuda")


def rows_that_fit(model: Any, tokens: int) -> int:
    """How many rows of so many tokens (prompt and answer) fit into memory, as a power of two.

    The free memory varies a little from run to run, and a different batch size may change an answer
    in rare tokens. A power of two is nearly always the same.
    """
    most = MOST["cuda" if model.device.type == "cuda" else "cpu"]
    return min(_rows_in_memory(model, tokens, SCORED), most)


def _rows_in_memory(model: Any, tokens: int, scored: int) -> int:
    """How many rows fit, at least 1, as a power of two."""
    device = "cuda" if model.device.type == "cuda" else "cpu"
    shape, each = shape_of_model(model), model.dtype.itemsize
    if shape is None:
        return UNKNOWN
    longest = max_positions(model.config.to_dict()) or tokens
    eager = model.config._attn_implementation == "eager"
    rows = free_memory(device) / row_bytes(shape, min(tokens, longest), each, eager, scored)
    return 2 ** int(math.log2(max(rows, 1)))


def shape_of_model(model: Any) -> Shape | None:
    """The shape of a loaded model; None for one without keys and values."""
    tensors = {
        name: (tuple(one.shape), one.element_size()) for name, one in model.named_parameters()
    }
    return shape_from_config(model.config.get_text_config(decoder=True).to_dict(), tensors)


def row_bytes(
    shape: Shape, tokens: int, each: int, eager: bool = False, scored: int = SCORED
) -> float:
    """The most bytes that a row of so many tokens takes while it is read and answered.

    Args:
        each: Bytes per number.
        eager: Whether attention materialises the matrix of all pairs of tokens for each head.
        scored: How many of its positions have logits.
    """
    # The keys and values of one layer at a time are copied, when tokens are added.
    cache = cache_bytes(shape, tokens, each) * (1 + 1 / max(1, shape.attending))
    states = each * (3 * shape.hidden + 3 * shape.inner + 2 * shape.queries) * tokens
    if shape.linear is not None:  # without special kernels such a layer is computed in fp32
        states += LINEAR_STATES * 4 * shape.linear.values * tokens
    if shape.experts is not None:  # a token's state is copied for each of its experts
        states += EXPERT_STATES * each * shape.experts.per_token * shape.hidden * tokens
    pairs = (1 + each) * tokens**2  # the attention mask, which left padding requires
    if eager:
        pairs += EAGER_PAIRS * each * shape.heads * tokens**2
    return cache + states + pairs + (4 + each) * scored * shape.vocabulary


def cache_bytes(shape: Shape, tokens: int, each: int) -> int:
    """Bytes of the keys and values of a row; layers with a sliding window need less."""
    return 2 * shape.attending * shape.keys * tokens * each
