"""Calls functions in another process, so that nothing stays imported or set in this one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

from talr_cli.errors import UserError


@contextmanager
def worker_process() -> Iterator[Callable[[Callable[[Any], Any], Any], Any]]:
    """Yields call(function, argument), which runs the function in the worker process.

    All calls go to the same process. It is for the hub's client, which reads its environment
    variables at import, and for code that imports torch. Ctrl-C also ends the worker, which would
    otherwise finish its download first.

    Raises:
        UserError: The worker was killed.
    """
    others = set(active_children())
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            yield lambda function, argument: process.submit(function, argument).result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that this command had started was killed, perhaps for its memory: "
                "repeat the command"
            ) from error
        except KeyboardInterrupt:
            for child in set(active_children()) - others:
                child.terminate()
            raise
