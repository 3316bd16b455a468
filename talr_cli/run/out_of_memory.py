"""Turns an out-of-memory error of a training into one line: the numbers, and what would help.

On a CPU the kernel may instead kill the process silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from talr_cli import ranks
from talr_cli.errors import UserError
from talr_cli.methods.regularisers import L2
from talr_cli.models.device_memory import is_out_of_memory
from talr_cli.run.config import TrainConfig

if TYPE_CHECKING:
    from talr_cli.run.prepare import Run

_BYTES = re.compile(r"(?:tried to allocate|Tried to allocate) ([\d.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@contextmanager
def explain_out_of_memory(run: Run) -> Iterator[None]:
    """Turn running out of memory into a UserError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{_numbers(run, error)}: {_way_out(run.config)}") from error


def _numbers(run: Run, error: Exception) -> str:
    from talr_cli.training.spent import peak_memory_gib

    match = _BYTES.search(str(error))
    wanted = "" if match is None else f" for {float(match[1]) * _UNITS[match[2]] / 2**30:.2f} GiB"
    where = "the GPU's" if run.device == "cuda" else "this machine's"
    return (
        f"training ran out of {where} memory: there was no room{wanted} more, "
        f"{peak_memory_gib(run.device):.2f} GiB were taken at most"
    )


def _way_out(config: TrainConfig) -> str:
    """What to type to need less memory, beginning with what gives the same weights."""
    trainer, regulariser = config.trainer, config.regulariser
    same = []
    micro = trainer.micro_batch_size if isinstance(trainer.micro_batch_size, int) else None
    may_cut = not config.objective.depends_on_micro_batch
    if may_cut and trainer.batch_size > ranks.world_size() and micro != 1:
        # If none was typed, the planner overestimated what fits: a single row is safe.
        less = max(size for size in range(1, micro) if micro % size == 0) if micro else 1
        same.append(f"trainer.micro_batch_size={less}")
    if trainer.gradient_checkpointing is not True:
        same.append("trainer.gradient_checkpointing=true")
    if isinstance(regulariser, L2) and regulariser.theta0_device != "cpu":
        same.append("regulariser.theta0_device=cpu")
    other = []
    if config.adapter is None and not isinstance(regulariser, L2):
        other.append("adapter=lora, which is another run")
    other.append(f"a trainer.max_length below {trainer.max_length}, where rows are longer")
    if not same:
        return f"take {', or '.join(other)}"
    return f"go on with {' or '.join(same)}, which change no result; or take {', or '.join(other)}"
