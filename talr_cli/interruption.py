"""Handles Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean stop, the second stops at once.

All mean the same everywhere, except that a second SIGHUP is ignored: a closed terminal may send
two.
Outside of `stop_requests` the first signal also stops at once.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
log = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether a stop was requested."""

    requested: bool = False


def killed_by(number: int) -> str:
    """A phrase for a process that a signal has ended."""
    if number == signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory has run out"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:  # real-time signals have no name
        return f"killed by signal {number}"


def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler that raises KeyboardInterrupt, as Python does for Ctrl-C."""
    raise KeyboardInterrupt


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], Any], signals: Iterable[signal.Signals] = _SIGNALS
) -> Iterator[None]:
    """Within this context signals call `handler`, but for those that are ignored.

    A shell lets background jobs ignore Ctrl-C, and nohup SIGHUP, which must stay so.
    """
    previous = {
        one: signal.signal(one, handler)
        for one in signals
        if signal.getsignal(one) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for one, before in previous.items():
            signal.signal(one, before)


@contextmanager
def stop_requests(promise: str) -> Iterator[Stop]:
    """Within this context the first signal only sets `requested`.

    At its end KeyboardInterrupt is raised if there was a signal.

    Args:
        promise: The message after the signal, which says what is still done.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread can handle signals
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if stop.requested:
            if signal_number == signal.SIGHUP:
                return
            raise KeyboardInterrupt
        stop.requested = True
        log.info("%s; once more stops at once", promise)

    with handled_by(handle):
        yield stop
    if stop.requested:
        raise KeyboardInterrupt
