"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second stops at once.

Both signals mean the same everywhere. Outside `stop_requests` the first one stops at once too.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_STOPS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether a stop was asked for."""

    requested: bool = False


def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """A handler: what Ctrl-C does in Python."""
    raise KeyboardInterrupt


@contextmanager
def stop_requests(promise: str) -> Iterator[Stop]:
    """Inside, the first signal only sets `requested`; leaving raises KeyboardInterrupt for it.

    `promise` is what the user is told then: what is still done.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals are the main thread's
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        log.info("%s; once more stops at once", promise)

    # A shell that starts a job in the background has Ctrl-C ignored for it.
    heard = [one for one in _STOPS if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, handle) for one in heard}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if stop.requested:
        raise KeyboardInterrupt
