"""Calls in a process of its own: what they import and set is not here afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any


@contextmanager
def apart() -> Iterator[Callable[[Callable[[Any], Any], Any], Any]]:
    """Inside, what is yielded calls a function in another process, the same for all calls.

    For the hub's client, which reads its environment when it is imported, and for what imports
    torch. Ctrl-C ends the process too: one that downloads would first come to the file's end.
    """
    others = set(active_children())
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            yield lambda function, argument: process.submit(function, argument).result()
        except KeyboardInterrupt:
            for child in set(active_children()) - others:
                child.terminate()
            raise
