"""The runs that a config stands for: points along its training, and what is merged of each.

Every one is a run of its own, with its identity, directory and scores. Those along one training are
made by it, together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from talr_cli.methods.averaging import Ema
from talr_cli.run.config import TrainConfig


def along(config: TrainConfig) -> list[TrainConfig]:
    """What is taken of one training, the earliest first; the last is the whole of it, as typed.

    A config that takes its weights early (`at`) stands for itself alone.
    """
    whole = replace(config, score_at=None)
    return [*(replace(whole, at=share) for share in config.score_at), whole]


def whole_training(config: TrainConfig) -> TrainConfig:
    """The run whose training the run of `config` is a part of, or is."""
    return replace(config, at=1.0)


def is_merged(config: TrainConfig) -> bool:
    """Whether the run is made of a finished one; one with a moving average is trained itself."""
    return config.merge is not None and not isinstance(config.merge, Ema)


def without_merge(config: TrainConfig) -> TrainConfig:
    """The same run without the merge: what is to be merged, whatever was scored of it."""
    return _renamed(config, merge=None, eval=False)


def of_alpha(config: TrainConfig, alpha: float) -> TrainConfig:
    """The run with one alpha of its merge, made of a finished one."""
    merge: Any = config.merge
    return _renamed(config, merge=replace(merge, alpha=alpha))


def _renamed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Where its name was made of its parts, it follows them."""
    if config.method == config.parts.name:
        changes["method"] = ""
    return replace(config, **changes)
