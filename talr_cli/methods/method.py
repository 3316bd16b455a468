"""A method: a choice on every axis. Knows how parts are named and which exclude one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora
from talr_cli.methods.averaging import Averaging
from talr_cli.methods.base import Objective, Regulariser
from talr_cli.methods.regularisers import L2
from talr_cli.methods.replay import Replay

if TYPE_CHECKING:
    from omegaconf import DictConfig

AXES = ("objective", "adapter", "regulariser", "merge", "replay")


@dataclass(frozen=True)
class Method:
    """What two runs of one study may differ in, beside the learning rate and the seed."""

    objective: Objective
    adapter: Lora | None
    regulariser: Regulariser | None
    merge: Averaging | None
    replay: Replay | None

    @classmethod
    def of(cls, config: DictConfig) -> Method:
        """The parts that a train config names.

        Raises:
            UserError: A value is wrong, or the parts make no sense together.
        """
        # An axis that nothing was chosen for is an empty config.
        parts: dict[str, Any] = {
            axis: instantiate(config[axis]) if config.get(axis) else None for axis in AXES
        }
        method = cls(**parts)
        if method.objective is None:
            raise UserError("objective is empty: choose one, e.g. objective=sft")
        if isinstance(method.regulariser, L2) and method.adapter is not None:
            raise UserError(
                "regulariser=l2 does not go with adapter=lora: the trained weights are the "
                "adapters', and pulling them to their start is weight decay, not L2 to the base; "
                "use regulariser=kl, or leave one out"
            )
        return method

    @property
    def name(self) -> str:
        """`sft`, `talr+lora`, ...: the classes' names, and sft only where nothing was added."""
        parts = [part for part in vars(self).values() if part is not None]
        names = [getattr(part, "name", type(part).__name__.lower()) for part in parts]
        return "+".join(names[1:] if names[0] == "sft" and len(names) > 1 else names)
