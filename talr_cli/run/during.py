"""Scores a point along a training in another process, while the training waits.

So scoring does not change the training's random state, peak memory or results, and frees all its
memory when it ends. A point for which it fails is scored after the training.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from talr_cli import ranks
from talr_cli.data.encoding import TokenRows
from talr_cli.interruption import Stop, interrupt, killed_by
from talr_cli.models import device_memory
from talr_cli.run.prepare import Run
from talr_cli.tracking.base import Tracker

log = logging.getLogger(__name__)

_POLL = 0.5  # seconds between checks for a requested stop


def score_in_own_process(point: Run, stop: Stop) -> None:
    """Score the saved weights of a point and wait for that; a requested stop ends it."""
    if ranks.world_size() > 1:
        log.info("score_during: with several processes points are scored after the training")
        return
    device_memory.release_memory()  # for the other process
    log_file = point.directory.path / "eval.log"
    none = TokenRows()
    # Spawned, as forking a process that uses a GPU or threads is not safe.
    process = multiprocessing.get_context("spawn").Process(
        target=_score,
        args=(replace(point, rows=none, general=none, validation=none), log_file),
    )
    try:
        process.start()
        while process.is_alive() and not stop.requested:
            process.join(_POLL)
    except Exception as error:  # pickling an object of the user's own may raise anything
        log.warning("not scored during the training, but after it: %s", error)
        return
    finally:
        if process.pid is not None and process.is_alive():
            process.terminate()
            process.join()
    if stop.requested:
        return
    results = point.directory.read_results()
    if process.exitcode != 0 or results is None:
        code = process.exitcode or 0
        why = f"it was {killed_by(-code)}" if code < 0 else log_file
        log.warning("not scored during the training, but after it; why: %s", why)
        return
    scores = [
        f"{part} {results[part]['score']:.3f}" for part in ("domain", "general") if results[part]
    ]
    log.info("scored at %g of the steps: %s", point.config.at, ", ".join(scores))


def _score(point: Run, log_file: Path) -> None:
    """Runs in the process: scores the point, with all output in `log_file`."""
    from talr_cli.run.execute import run_to_end

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the training process decides
    signal.signal(signal.SIGTERM, interrupt)
    file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("talr_cli").setLevel(logging.INFO)
    run_to_end(point, refuse_to_make)


def refuse_to_make(run: Run, tracker: Tracker) -> None:
    """A `MakeModel` for runs that have their weights; called only if these have disappeared."""
    raise RuntimeError(f"{run.directory.model} has disappeared")
