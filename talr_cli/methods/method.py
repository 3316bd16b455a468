"""A method: a choice on every axis. Knows how parts are named and which exclude one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.errors import UserError
from talr_cli.methods.base import Adapter, Merge, Objective, Regulariser
from talr_cli.methods.regularisers import L2
from talr_cli.methods.replay import OtherRows
from talr_cli.methods.schedules import Cosine, Schedule


@dataclass(frozen=True)
class Method:
    """What two runs of one study may differ in, beside the learning rate and the seed.

    Raises:
        UserError: The parts make no sense together.
    """

    objective: Objective
    adapter: Adapter | None = None
    regulariser: Regulariser | None = None
    merge: Merge | None = None
    replay: OtherRows | None = None
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
        """`sft`, `talr+lora`, ...: the classes' names, and sft only where nothing was added."""
        parts = [
            part
            for part in vars(self).values()
            if part is not None and not isinstance(part, Cosine)  # the study's, and the default
        ]
        names = list(map(_name, parts))
        return "+".join(names[1:] if names[0] == "sft" and len(names) > 1 else names)


def _name(part: Any) -> str:
    """What stands in tables for a part."""
    return getattr(part, "name", type(part).__name__.lower())
