"""Calls in another process, which leave nothing imported or set in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any


@contextmanager
def apart() -> Iterator[Callable[[Callable[[Any], Any], Any], Any]]:
    """Yields ask(function, argument), which calls the function in another process.

    All calls go to the same process. It is for the hub's client, which reads its environment when
    it is imported, and for whatever imports torch. Ctrl-C ends that process too: left alone, it
    would first finish the file that it downloads.
    """
    others = set(active_children())
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            yield lambda function, argument: process.submit(function, argument).result()
        except KeyboardInterrupt:
            for child in set(active_children()) - others:
                child.terminate()
            raise
