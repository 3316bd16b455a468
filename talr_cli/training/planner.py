"""How a batch is cut up for the free memory: rows at once, and activation checkpointing or not.

Neither changes a result beyond rounding, with one exception: where rows are taken in several passes
TALR's tau is, by default, that of the step before. What was typed is kept. Otherwise the fastest
way that fits is taken, by a count of the tokens that are computed; nothing is tried out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from talr_cli.errors import UserError
from talr_cli.methods.method import Method
from talr_cli.models.device_memory import gib
from talr_cli.models.shape import Shape
from talr_cli.training.arithmetic import Arithmetic, Pass
from talr_cli.training.config import TrainerConfig
from talr_cli.training.memory import Memory, least, step_memory

# What each pass costs beside its tokens, in tokens: weights are read and cast, gradients added up.
# Computed from bandwidth and arithmetic of an H100 and of two CPU cores, not measured.
TOKENS_OF_A_PASS = {"cuda": 500, "cpu": 50}
# Operations for each weight and token.
FORWARD, BACKWARD = 2, 4


@dataclass(frozen=True)
class Rows:
    """Tokens and targets of each training row.

    Args:
        targets: Of each row, with those of the rows that it takes along.
        joined: Whether the rows of a pass are joined, where there are several, and not padded.
        along: Of each row the tokens of the rows that it takes along; empty: none takes any.
        varlen: Whether one kernel takes all joined rows, and windows.
    """

    tokens: Sequence[int]
    targets: Sequence[int]
    joined: bool
    along: Sequence[Sequence[int]] = ()
    varlen: bool = False

    @classmethod
    def alike(cls, tokens: int, count: int, varlen: bool) -> Rows:
        """So many rows of so many tokens, all of them targets."""
        return cls([tokens] * count, [tokens] * count, joined=varlen, varlen=varlen)

    def worst(self, rows: int, checkpointing: bool, accumulates: bool) -> Pass:
        """The largest pass that so many rows can make."""
        sequences, targets = self._sequences, sum(sorted(self.targets, reverse=True)[:rows])
        longest = max(map(max, sequences))
        if self.joined:
            tokens = sum(sorted(map(sum, sequences), reverse=True)[:rows])
        else:
            tokens = longest * sum(sorted(map(len, sequences), reverse=True)[:rows])
        return Pass(tokens, targets, longest, checkpointing, accumulates, self.varlen)

    def mean_tokens(self, rows: int) -> float:
        """Of a row in a pass of so many, with its padding: the mean over all draws."""
        sequences, count = self._sequences, len(self.tokens)
        if self.joined:
            return sum(map(sum, sequences)) / count
        # The longest of `rows` draws is at most the k-th shortest with probability (k / count)^rows
        below = [(k / count) ** rows for k in range(count + 1)]
        chances = (high - low for low, high in itertools.pairwise(below))
        longest = sum(
            length * chance
            for length, chance in zip(sorted(map(max, sequences)), chances, strict=True)
        )
        return longest * sum(map(len, sequences)) / count

    @cached_property
    def _sequences(self) -> list[list[int]]:
        """The tokens of each row and of those that it takes along."""
        along = self.along or [()] * len(self.tokens)
        return [[own, *others] for own, others in zip(self.tokens, along, strict=True)]


@dataclass(frozen=True)
class Plan:
    """How a batch is cut up for each process, what that takes, and why it was chosen."""

    rows: int
    checkpointing: bool
    memory: Memory
    free: float
    reason: str

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.free

    def line(self, batch: int) -> str:
        """What is logged."""
        again = "layers computed again" if self.checkpointing else "no layer computed again"
        return (
            f"memory: about {gib(self.memory.total)} of {gib(self.free)} usable, "
            f"{self.rows} of {batch} rows at once, {again}: {self.reason}"
        )


def choose(
    shape: Shape,
    method: Method,
    trainer: TrainerConfig,
    how: Arithmetic,
    rows: Rows,
    free: float,
) -> Plan:
    """The fastest way to cut up a batch that fits into `free` bytes; if none does, the smallest."""
    batch = max(1, trainer.batch_size // how.ranks)
    typed, again = trainer.rows_at_once, trainer.gradient_checkpointing
    sizes = [n for n in range(batch, 0, -1) if batch % n == 0]
    if typed is not None:
        sizes = [typed]
    elif method.objective.depends_on_micro_batch:
        sizes = [batch]  # no other is free
    ways = [again] if isinstance(again, bool) else [False, True]
    plans = []
    for size, checkpointing in itertools.product(sizes, ways):
        one = rows.worst(size, checkpointing, accumulates=size < batch)
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
    best = min(fitting, key=lambda plan: cost(plan, how.device, rows))
    fastest = min(plans, key=lambda plan: cost(plan, how.device, rows))
    return replace(best, reason="the fastest" + (" that fits" if best is not fastest else ""))


def cost(plan: Plan, device: str, rows: Rows) -> float:
    """What a training row costs, in tokens that go once forward and once backward."""
    passes = operations(plan.checkpointing) / operations(checkpointing=False)
    return passes * rows.mean_tokens(plan.rows) + TOKENS_OF_A_PASS[device] / plan.rows


def operations(checkpointing: bool) -> int:
    """For each weight and token of a training step."""
    return FORWARD + BACKWARD + (FORWARD if checkpointing else 0)


def check_state(
    name: str, shape: Shape, method: Method, how: Arithmetic, there: float, where: str
) -> None:
    """Refuse a training whose weights, gradient and optimizer alone are too large.

    Args:
        there: Bytes of memory; `where` goes on with "24.0 GiB ...".

    Raises:
        UserError: With what may be done.
    """
    needed = least(shape, method, how)
    if needed > there:
        raise UserError(
            f"{name}: training needs {gib(needed)} for weights, gradient and optimizer alone, "
            f"{gib(there)} {where}: {_remedies(shape, method, how, there)}"
        )


def warning(plan: Plan, shape: Shape, method: Method, how: Arithmetic, longest: int) -> str:
    """Of a plan that does not fit: that memory may run out, and what to change."""
    return (
        f"memory may run out: about {gib(plan.memory.total)} are needed with {plan.rows} rows at "
        f"once, the longest of {longest} tokens, and {gib(plan.free)} are usable; "
        f"{_remedies(shape, method, how, plan.free)}, lower trainer.max_length"
        + ("" if plan.checkpointing else ", or set trainer.gradient_checkpointing=auto")
    )


def _remedies(shape: Shape, method: Method, how: Arithmetic, there: float) -> str:
    """What makes the weights, the gradient and the optimizer smaller."""
    found = ["take a smaller model"]
    if method.adapter is None:
        found.insert(0, "take adapter=lora")
    if not how.sharded:
        parts = next(
            (n for n in (2, 4, 8, 16) if least(shape, method, _split(how, n)) < 0.8 * there), None
        )
        if parts:
            found.append(f"use {parts} GPUs with distributed=fsdp2")
    if getattr(method.regulariser, "theta0_device", "cpu") != "cpu" and how.device != "cpu":
        found.insert(0, "set regulariser.theta0_device=cpu")
    return ", ".join(found)


def _split(how: Arithmetic, ranks: int) -> Arithmetic:
    return replace(how, ranks=ranks, sharded=True)
