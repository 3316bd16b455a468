"""Starts the tracker that a run's config names."""

from __future__ import annotations

import logging
from collections.abc import Callable

from talr_cli.errors import kind_and_reason
from talr_cli.tracking import mlflow, tensorboard, wandb
from talr_cli.tracking.base import About, Backend, Tracker

# A tracker is a file of this room with a `start`; each imports its library there.
STARTS: dict[str, Callable[[About], Backend | None]] = {
    "wandb": wandb.start,
    "tensorboard": tensorboard.start,
    "mlflow": mlflow.start,
}

log = logging.getLogger(__name__)


def start_tracking(about: About) -> Tracker:
    """Start or resume tracking a run; without its tracker if that cannot start."""
    start = STARTS.get(about.logger.name)
    if start is None:
        return Tracker()
    try:
        return Tracker(start(about))
    except Exception as error:  # whatever its library raises: tracking fails no run
        title = {"wandb": "W&B"}.get(about.logger.name, about.logger.name)
        log.warning("%s could not start, going on without it: %s", title, kind_and_reason(error))
        return Tracker()
