"""Logs to TensorBoard: event files in tensorboard/, for `tensorboard --logdir runs/STUDY`."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from talr_cli.tracking.base import Ending, RunInfo, Samples, Scores, Tasks

FOLDER = "tensorboard"

log = logging.getLogger(__name__)
_usual_hook = threading.excepthook


class TensorBoard:
    """The event files of a run."""

    title = "TensorBoard"

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._step = 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._step = step
        for name, number in metrics.items():
            if isinstance(number, int | float):
                self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def finish(
        self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None, ending: Ending
    ) -> None:
        for name, number in scores.items():
            self._writer.add_scalar(f"scores/{name}", number, self._step)
        if tasks:
            self._writer.add_text("tasks", _as_table(tasks))
        if plot is not None:
            import numpy
            from PIL import Image

            with Image.open(plot) as picture:
                pixels = numpy.asarray(picture.convert("RGB"))
            self._writer.add_image("trade-off", pixels, dataformats="HWC")
        self._writer.close()


def start(info: RunInfo) -> TensorBoard:
    """Write the run's files anew, as those of a killed process may end within a record."""
    from torch.utils.tensorboard import SummaryWriter

    threading.excepthook = _print_unless_of_tensorboard
    folder = info.directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    backend = TensorBoard(SummaryWriter(str(folder)))
    text = yaml.safe_dump(dict(info.config), sort_keys=False, allow_unicode=True)
    backend._writer.add_text("config", f"```yaml\n{text}```")
    for step, metrics in info.history_curves():
        backend.log(step, metrics)
    log.info("TensorBoard: tensorboard --logdir %s", info.directory.parents[1])
    return backend


def _print_unless_of_tensorboard(ended: threading.ExceptHookArgs) -> None:
    """The thread that writes ends with its traceback; the next call raises the same."""
    if not type(ended.thread).__module__.startswith("tensorboard."):
        _usual_hook(ended)


def _as_table(tasks: Tasks) -> str:
    """A Markdown table, which TensorBoard renders."""
    columns = ("metric", "score", "stderr", "n")
    rows = [[name, *(str(task.get(column)) for column in columns)] for name, task in tasks.items()]
    lines = [["task", *columns], ["---"] * (len(columns) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
