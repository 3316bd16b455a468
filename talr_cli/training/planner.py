"""Plans how a batch is divided to fit into memory: micro-batch size and activation checkpointing.

Neither changes a result beyond rounding, with one exception: with several micro-batches TALR's tau
is, by default, that of the previous step. What the user typed is kept. Otherwise the plan is the
fastest that fits, by a count of the tokens that are computed; nothing is run to find out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora
from talr_cli.methods.method import Method
from talr_cli.models.device_memory import gib
from talr_cli.models.shape import Shape
from talr_cli.training.arithmetic import Arithmetic, MicroBatch
from talr_cli.training.config import TrainerConfig
from talr_cli.training.memory import Memory, minimum_bytes, step_memory

# The fixed cost of a micro-batch (weights are read and cast, gradients accumulated), in the time of
# so many tokens. Computed from the specifications of an H100 and of two CPU cores, not measured.
TOKENS_OF_A_PASS = {"cuda": 500, "cpu": 50}
LOW_RANK = 8  # of adapters, suggested where a higher one does not fit
# Floating-point operations per weight and token.
FORWARD, BACKWARD = 2, 4


@dataclass(frozen=True)
class RowLengths:
    """The lengths of the training rows.

    Args:
        tokens: The tokens of each row.
        targets: The targets of each row, and of the replayed rows that it takes along.
        joined: Whether the rows of a micro-batch are joined instead of padded.
        along: For each row the tokens of each replayed row that it takes along; empty: no replay.
        varlen: Whether one kernel attends over all joined rows, with sliding windows.
    """

    tokens: Sequence[int]
    targets: Sequence[int]
    joined: bool
    along: Sequence[Sequence[int]] = ()
    varlen: bool = False

    @classmethod
    def uniform(cls, tokens: int, count: int, varlen: bool) -> RowLengths:
        """`count` rows of `tokens` tokens each, all of them targets."""
        return cls([tokens] * count, [tokens] * count, joined=varlen, varlen=varlen)

    def largest_micro_batch(self, rows: int, checkpointing: bool, accumulates: bool) -> MicroBatch:
        """The largest micro-batch that `rows` of these rows can make."""
        targets, longest = sum(self._most_targets[:rows]), self._longest[-1]
        tokens = sum(self._sizes[:rows]) * (1 if self.joined else longest)
        return MicroBatch(tokens, targets, longest, checkpointing, accumulates, self.varlen)

    def mean_tokens(self, rows: int) -> float:
        """The mean tokens of a row, padding included, in a random micro-batch of so many rows."""
        count = len(self.tokens)
        if self.joined:
            return sum(self._sizes) / count
        # The longest of `rows` draws is at most the k-th shortest with probability (k / count)^rows
        below = [(k / count) ** rows for k in range(count + 1)]
        chances = (high - low for low, high in itertools.pairwise(below))
        longest = sum(
            length * chance for length, chance in zip(self._longest, chances, strict=True)
        )
        return longest * sum(self._sizes) / count

    @cached_property
    def _most_targets(self) -> list[int]:
        """The targets of each row, most first."""
        return sorted(self.targets, reverse=True)

    @cached_property
    def _sizes(self) -> list[int]:
        """The tokens of each row if rows are joined, else its number of sequences; most first."""
        return sorted(map(sum if self.joined else len, self._sequences), reverse=True)

    @cached_property
    def _longest(self) -> list[int]:
        """The tokens of the longest sequence of each row, fewest first."""
        return sorted(map(max, self._sequences))

    @cached_property
    def _sequences(self) -> list[list[int]]:
        """For each row its tokens, then those of each replayed row that it takes along."""
        along = self.along or [()] * len(self.tokens)
        return [[own, *others] for own, others in zip(self.tokens, along, strict=True)]


@dataclass(frozen=True)
class Plan:
    """How each process divides its batch, the memory that it takes, and why it was chosen.

    Attributes:
        rows: The micro-batch size.
        checkpointing: Whether the layers are recomputed in the backward pass.
        memory: The peak of an optimizer step.
        free: Usable memory, in bytes.
        reason: Why this plan was chosen.
    """

    rows: int
    checkpointing: bool
    memory: Memory
    free: float
    reason: str

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.free

    def line(self, batch: int) -> str:
        """The line that is logged, for a batch of so many rows."""
        again = "layers computed again" if self.checkpointing else "no layer computed again"
        return (
            f"memory: about {gib(self.memory.total)} of {gib(self.free)} usable, "
            f"{self.rows} of {batch} rows at once, {again}: {self.reason}"
        )


def choose_plan(
    shape: Shape,
    method: Method,
    trainer: TrainerConfig,
    how: Arithmetic,
    rows: RowLengths,
    free: float,
) -> Plan:
    """The fastest plan that fits into `free` bytes; if none does, the one with the least memory."""
    batch = max(1, trainer.batch_size // how.ranks)
    typed, again = trainer.rows_at_once, trainer.gradient_checkpointing
    sizes = [n for n in range(batch, 0, -1) if batch % n == 0]
    if typed is not None:
        sizes = [typed]
    elif method.objective.depends_on_micro_batch:
        sizes = [batch]  # any other would change the gradient
    ways = [again] if isinstance(again, bool) else [False, True]
    plans = []
    for size, checkpointing in itertools.product(sizes, ways):
        one = rows.largest_micro_batch(size, checkpointing, accumulates=size < batch)
        memory = step_memory(shape, method, how, one)
        plans.append(Plan(size, checkpointing, memory, free, ""))
    if len(plans) == 1:
        return replace(plans[0], reason="as typed")
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        smallest = min(plans, key=lambda plan: plan.memory.total)
        return replace(smallest, reason="the least that can be done")
    if how.device == "cpu" and (fitting[0].rows, fitting[0].checkpointing) == (batch, False):
        return replace(fitting[0], reason="all of it fits")
    best = min(fitting, key=lambda plan: cost_per_row(plan, how.device, rows))
    fastest = min(plans, key=lambda plan: cost_per_row(plan, how.device, rows))
    return replace(best, reason="the fastest" + (" that fits" if best is not fastest else ""))


def cost_per_row(plan: Plan, device: str, rows: RowLengths) -> float:
    """The cost of a training row, in tokens that go once forward and once backward."""
    passes = operations_per_weight(plan.checkpointing) / operations_per_weight(checkpointing=False)
    return passes * rows.mean_tokens(plan.rows) + TOKENS_OF_A_PASS[device] / plan.rows


def operations_per_weight(checkpointing: bool) -> int:
    """Floating-point operations per weight and token in a training step."""
    return FORWARD + BACKWARD + (FORWARD if checkpointing else 0)


def check_minimum(
    name: str, shape: Shape, method: Method, how: Arithmetic, there: float, where: str
) -> None:
    """Refuse a training that does not fit even without any activations.

    Args:
        name: The model's name, for the message.
        there: The memory in bytes.
        where: How the message goes on after "24.0 GiB", such as "of it are free".

    Raises:
        UserError: Says what the user can do.
    """
    needed = minimum_bytes(shape, method, how)
    if needed > there:
        raise UserError(
            f"{name}: training needs {gib(needed)} for weights, gradient and optimizer alone, "
            f"{gib(there)} {where}: {_remedies(shape, method, how, there)}"
        )


def overrun_warning(plan: Plan, shape: Shape, method: Method, how: Arithmetic, longest: int) -> str:
    """The warning about a plan that does not fit: memory may run out, and what to change."""
    return (
        f"memory may run out: about {gib(plan.memory.total)} are needed with {plan.rows} rows at "
        f"once, the longest of {longest} tokens, and {gib(plan.free)} are usable; "
        f"{_remedies(shape, method, how, plan.free)}, lower trainer.max_length"
        + ("" if plan.checkpointing else ", or set trainer.gradient_checkpointing=auto")
    )


def _remedies(shape: Shape, method: Method, how: Arithmetic, there: float) -> str:
    """What the user can do to make weights, gradient and optimizer fit into `there` bytes."""
    found = ["take a smaller model"]
    if (lighter := _lighter_adapter(shape, method, how, there)) is not None:
        found.insert(0, f"take {lighter}")
    if not how.sharded:
        for ranks in (2, 4, 8, 16):
            split = replace(how, ranks=ranks, sharded=True)
            if minimum_bytes(shape, method, split) < 0.8 * there:
                found.append(f"use {ranks} GPUs with distributed=fsdp2")
                break
    if getattr(method.regulariser, "theta0_device", "cpu") != "cpu" and how.device != "cpu":
        found.insert(0, "set regulariser.theta0_device=cpu")
    return ", ".join(found)


def _lighter_adapter(shape: Shape, method: Method, how: Arithmetic, there: float) -> str | None:
    """What to type for an adapter that fits: LoRA, QLoRA (on a GPU), or that of a lower rank."""
    if not isinstance(method.adapter, Lora | None):
        return None
    now = method.adapter or Lora()
    four_bits = {"base_dtype": "nf4"} if how.device == "cuda" else {}
    for changes in ({}, four_bits, {**four_bits, "rank": min(now.rank, LOW_RANK)}):
        words = [f"adapter.{key}={new}" for key, new in changes.items() if getattr(now, key) != new]
        if method.adapter is None:
            words.insert(0, "adapter=lora")
        with suppress(UserError):  # the method's other parts do not go with it
            lighter = replace(method, adapter=replace(now, **changes))
            if words and minimum_bytes(shape, lighter, how) < there:
                return " ".join(words)
    return None
