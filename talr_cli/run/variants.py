"""The runs that a config stands for: points along its training, and the merges of each.

Each is a run of its own, with its identity, directory and scores. The points are all made by the
one training.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from talr_cli.methods.averaging import Ema
from talr_cli.run.config import TrainConfig

log = logging.getLogger(__name__)


def along(config: TrainConfig) -> list[TrainConfig]:
    """The points of one training, the earliest first; the last is the whole training, as typed.

    A config that takes its weights early (`at`) stands for itself alone.
    """
    whole = replace(config, score_at=None)
    return [*(replace(whole, at=share) for share in config.score_at), whole]


def warn_of_unused(config: TrainConfig) -> None:
    """Say which values of the points along a training are not used."""
    for name in ("score_during", "score_suite"):
        if getattr(config, name) and not config.score_at:
            log.warning("%s is not used: score_at names no point along the training", name)
    if config.score_during and config.score_at and is_merged(config):
        log.warning("score_during is not used: what is merged of a point is scored at the end")


def whole_training(config: TrainConfig) -> TrainConfig:
    """The run whose training the run of `config` is a part of, or is."""
    return replace(config, at=1.0)


def is_merged(config: TrainConfig) -> bool:
    """Whether the run is made of a finished one; a moving average (`Ema`) is trained itself."""
    return config.merge is not None and not isinstance(config.merge, Ema)


def without_merge(config: TrainConfig) -> TrainConfig:
    """The run that is to be merged; it need not be scored."""
    return _renamed(config, merge=None, eval=False)


def of_alpha(config: TrainConfig, alpha: float) -> TrainConfig:
    """The run for one alpha of its merge."""
    merge: Any = config.merge
    return _renamed(config, merge=replace(merge, alpha=alpha))


def _renamed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The config with changes; a name that was made of the parts' names is made anew."""
    if config.method == config.parts.name:
        changes["method"] = ""
    return replace(config, **changes)
