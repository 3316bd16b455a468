"""The tracker of a run or of a checkpoint's scores, named and resumed as they lie on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talr_cli.fields import plain
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from talr_cli.tracking.base import Tracker


def track(config: TrainConfig | EvalConfig, directory: RunDirectory, identity: str) -> Tracker:
    """Start, or go on with, what is tracked of `directory`."""
    from talr_cli.tracking.base import About
    from talr_cli.tracking.start import start_tracking

    return start_tracking(
        About(
            config.logger,
            run_id=identity[:8],
            name=directory.path.name,
            group=config.study,
            config=plain(config),
            directory=directory.path,
            history=directory.read_metrics(),
        )
    )
