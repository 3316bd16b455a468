"""Turns an out-of-memory error of a training into one line: the numbers, and what would help.

On a CPU the kernel may instead kill the process silently.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from talr_cli import ranks
from talr_cli.methods.regularisers import L2
from talr_cli.models.device_memory import explain_shortage
from talr_cli.run.config import TrainConfig

if TYPE_CHECKING:
    from talr_cli.run.prepare import Run


def explain_out_of_memory(run: Run) -> AbstractContextManager[None]:
    """Turn running out of memory into a UserError that says what to change."""
    return explain_shortage("training", run.device, _way_out(run.config))


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
