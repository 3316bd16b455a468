"""A method is one choice for each kind of part.

Knows how methods are named in tables and which parts exclude each other, not what the parts do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.errors import UserError
from talr_cli.methods.base import Adapter, Merge, Objective, Regulariser
from talr_cli.methods.regularisers import L2
from talr_cli.methods.replay import ReplayedRows
from talr_cli.methods.schedules import Cosine, Schedule


@dataclass(frozen=True)
class Method:
    """The parts in which two runs of one study may differ, besides learning rate and seed.

    Raises:
        UserError: Two of the parts do not go together.
    """

    objective: Objective
    adapter: Adapter | None = None
    regulariser: Regulariser | None = None
    merge: Merge | None = None
    replay: ReplayedRows | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if isinstance(self.regulariser, L2) and self.adapter is not None:
            raise UserError(
                f"regulariser=l2 does not go with adapter={_name(self.adapter)}: the trained "
                "weights are the adapters', and pulling them to their start is weight decay, not "
                "L2 to the base; use regulariser=kl, or leave one out"
            )

    @property
    def name(self) -> str:
        """The parts' names joined by +, such as `talr+lora`; `sft` is left out before others."""
        names = [
            _name(part)
            for part in vars(self).values()
            if part is not None and not isinstance(part, Cosine)  # Cosine is the study's default
        ]
        return "+".join(names[1:] if names[0] == "sft" and len(names) > 1 else names)


def _name(part: Any) -> str:
    """The name of a part in tables."""
    return getattr(part, "name", type(part).__name__.lower())
