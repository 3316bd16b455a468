"""Which runs a config with a merge stands for: the one that is tuned, and one for each alpha."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from talr_cli.run.config import TrainConfig


def without_merge(config: TrainConfig) -> TrainConfig:
    """The same run without the merge: what is to be merged, whatever was scored of it."""
    return _renamed(config, merge=None, eval=False)


def of_alpha(config: TrainConfig, alpha: float) -> TrainConfig:
    """The run with one alpha of its merge."""
    merge: Any = config.merge
    return _renamed(config, merge=replace(merge, alpha=alpha))


def _renamed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Where its name was made of its parts, it follows them."""
    if config.method == config.parts.name:
        changes["method"] = ""
    return replace(config, **changes)
