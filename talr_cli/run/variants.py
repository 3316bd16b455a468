"""The runs that a config stands for: the points along its training, and the merges of each.

Each is a separate run, with its own identity, directory and scores. A single training makes all
points.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from talr_cli.methods.averaging import Ema
from talr_cli.run.config import TrainConfig

log = logging.getLogger(__name__)


def points_along(config: TrainConfig) -> list[TrainConfig]:
    """The configs of the points of a training, in order; the last is that of the whole training.

    A config with `at` below 1 stands only for itself.
    """
    full = replace(config, score_at=None)
    return [*(replace(full, at=share) for share in config.score_at), full]


def warn_of_unused(config: TrainConfig) -> None:
    """Warn about values for points along a training that have no effect."""
    for name in ("score_during", "score_suite"):
        if getattr(config, name) and not config.score_at:
            log.warning("%s is not used: score_at names no point along the training", name)
    if config.score_during and config.score_at and is_merged(config):
        log.warning("score_during is not used: the merges of points are scored at the end")


def is_merged(config: TrainConfig) -> bool:
    """Whether the run is made from a finished one; a moving average (`Ema`) is not."""
    return config.merge is not None and not isinstance(config.merge, Ema)


def without_merge(config: TrainConfig) -> TrainConfig:
    """The config of the run that is to be merged, which need not be scored."""
    return _renamed(config, merge=None, eval=False)


def with_alpha(config: TrainConfig, alpha: float) -> TrainConfig:
    """The config for one alpha of its merge."""
    merge: Any = config.merge
    return _renamed(config, merge=replace(merge, alpha=alpha))


def _renamed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The config with changes; a method name that was built from the parts is built again."""
    if config.method == config.parts.name:
        changes["method"] = ""
    return replace(config, **changes)
