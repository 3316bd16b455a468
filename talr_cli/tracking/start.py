"""Starts the tracker that a run's config names."""

from __future__ import annotations

import logging
from collections.abc import Callable

from talr_cli.errors import kind_and_reason
from talr_cli.tracking import mlflow, tensorboard, wandb
from talr_cli.tracking.base import Backend, RunInfo, Tracker

# A tracker is a module of this package with a function `start`, which imports its library.
STARTS: dict[str, Callable[[RunInfo], Backend | None]] = {
    "wandb": wandb.start,
    "tensorboard": tensorboard.start,
    "mlflow": mlflow.start,
}

log = logging.getLogger(__name__)


def start_tracking(info: RunInfo) -> Tracker:
    """Start or resume tracking a run; if that fails, the tracker does nothing."""
    start = STARTS.get(info.logger.name)
    if start is None:
        return Tracker()
    try:
        return Tracker(start(info))
    except Exception as error:  # a library may raise anything, and no run may fail for that
        title = {"wandb": "W&B"}.get(info.logger.name, info.logger.name)
        log.warning("%s could not start, going on without it: %s", title, kind_and_reason(error))
        return Tracker()
