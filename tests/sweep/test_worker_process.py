"""Calls in a process of their own."""

import multiprocessing
import os
import signal
import threading

import pytest

from talr_cli.errors import UserError
from talr_cli.sweep.worker_process import worker_process


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_ends_the_call_and_not_only_the_waiting_for_it(tmp_path):
    """As that of a download of hours would not."""
    end = tmp_path / "end"
    long = f"import time; time.sleep(30); open({str(end)!r}, 'w')"
    others = set(multiprocessing.active_children())

    def interrupted():
        with worker_process() as ask:
            assert ask(abs, -1) == 1  # it has started
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
            ask(exec, long)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not end.exists()
    assert not set(multiprocessing.active_children()) - others


def test_a_killed_process_is_reported_in_one_line():
    with pytest.raises(UserError, match="was killed"), worker_process() as ask:
        ask(os._exit, 9)
