"""Processes: which is meant, since process ids are reused, and how much time they have taken."""

import subprocess
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

LONGEST = 300.0  # seconds that `wait_for` waits at most
_STEP = 0.5  # seconds between two looks at a process


def process_start(pid: int) -> str | None:
    """When process `pid` started, as text for comparison only; None if it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            fields = _fields(Path(f"/proc/{pid}/stat"))
        except OSError:  # also if `pid` is out of range
            return None
        state, start_ticks = fields[0], fields[19]
        return None if state in "ZX" else start_ticks
    listing = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, start = listing.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def _fields(stat: Path) -> list[str]:
    """The fields of a process or thread from its state on, see proc_pid_stat(5)."""
    # The command name, in parentheses, may itself contain spaces and parentheses.
    return stat.read_text(errors="replace").rpartition(")")[2].split()


def wait_for(pipe: Connection | int, pid: int, seconds: float) -> bool:
    """Wait until a pipe can be read or is closed; False if a process takes too long before.

    What counts is about what it would take on an idle machine, since a score must not depend on
    what else the machine does: the CPU time of the process and of all that it has started, and the
    time in which all of these sleep or were stopped (SIGSTOP).

    Args:
        seconds: How long it may take; in any case not longer than LONGEST, busy machine or not.
    """
    begin = last = time.monotonic()
    first = cpu = _cpu_time(pid)
    asleep = 0.0
    while last - begin < LONGEST and cpu - first + asleep < seconds:
        if connection.wait([pipe], min(_STEP, seconds)):
            return True
        before, cpu = cpu, max(cpu, _cpu_time(pid))  # less where a process has ended unwaited
        now = time.monotonic()
        if cpu == before and _all_sleep(pid):
            asleep += now - last
        last = now
    return False


def _cpu_time(pid: int) -> float:
    """Seconds of CPU time of a process, of those below it, and of those that they waited for."""
    import psutil

    total = 0.0
    for one in _tree(pid):
        try:
            total += sum(psutil.Process(one).cpu_times()[:4])
        except psutil.Error:  # it has ended
            continue
    return total


def _all_sleep(pid: int) -> bool:
    """Whether all threads of a process and of those below it sleep or were stopped.

    False if that is not known.
    """
    states = []
    for one in _tree(pid):
        for stat in Path(f"/proc/{one}/task").glob("*/stat"):
            try:
                states.append(_fields(stat)[0])
            except OSError:  # it has ended
                continue
    return bool(states) and {*states} <= {*"STtZ"}


def _tree(pid: int) -> Iterator[int]:
    """The process and all below it."""
    import psutil

    yield pid
    try:
        yield from (one.pid for one in psutil.Process(pid).children(recursive=True))
    except psutil.Error:  # it has ended
        return
