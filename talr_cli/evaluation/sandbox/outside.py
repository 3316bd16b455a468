"""Runs programs that a model wrote in a sandbox.

It uses bubblewrap if that is installed, otherwise namespaces that `inside.py` creates by itself.
Both work for root and for ordinary users, and both use the system-call filter of `calls.py`. Knows
programs and limits; does not know tasks or scores.

Covered by both kinds:
- files outside: the root is empty and read-only, except for Python's own files and, for tests that
  use it, numpy's; the only writable place is a private folder in memory;
- the environment, the network, keys, processes outside, and system calls other than in `calls.py`;
- the time of all processes together, the memory of each, their number, the size and number of
  files, shared memory and semaphores (files in that folder; System V's and message queues are
  refused);
- endless output, and programs that ignore signals, detach themselves or signal all they can reach.
All processes end with the program's first one, at the limit on time, or when the caller dies, even
if it is killed. The program cannot reach the processes that ensure this.

Not covered:
- faults of the kernel in the allowed calls, and side channels such as time and load;
- a program that searches its own interpreter for the verdict's token can claim to have passed, as
  in every harness that tests a program in the program's own process; so can one that returns an
  object which equals everything, or jumps over the tests by a trace function;
- memory is limited per process: together they may take `Limits.processes` times as much, and what
  the kernel needs for pipes and sockets; if the machine runs out of it, they are killed first;
- the number of empty files, under bubblewrap where AppArmor takes a program's rights away;
- before Linux 5.14 all processes of an ordinary user count against the limit, not only the
  program's, and starting one can fail.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType

from talr_cli.errors import UserError
from talr_cli.evaluation.sandbox.calls import MACHINES, call_filter
from talr_cli.runs.process import wait_for

# The order is marshalled by the same interpreter, and contains the script (inside.py) to run.
_START = """
import marshal, os, sys
action, file = sys.argv[1], int(sys.argv[2])
order = marshal.loads(os.pread(file, os.fstat(file).st_size, 0))
exec(order["script"], inside := {})
inside["main"](order, action, file)
"""
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_ENVIRONMENT = {
    **{"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"},
    "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would count as processes
}
_REASON_BYTES = 500  # the most bytes of an error's text that are read
_SILENT = "ended before its end was reached"
KINDS = ("bubblewrap", "user-namespace")
_PATIENCE = 10.0  # seconds that the outer process has to end everything
_NOBODY = 65534
_FEW = 8  # the limit on processes in the trial
# The trial of a kind of sandbox: passes only if everything could be set up and a limit holds.
_FORKS = f"""
import os, time
try:
    for _ in range({2 * _FEW}):
        if os.fork() == 0:
            time.sleep(60)
except BlockingIOError:
    pass
else:
    raise SystemExit("more processes than allowed")
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use; sizes in bytes.

    Attributes:
        seconds: How long it may take with all that it starts, as `wait_for` counts it.
        numpy: Whether it may import numpy, besides Python's own library.
    """

    seconds: float = 10.0
    memory: int = 1 << 30
    processes: int = 16
    file_size: int = 16 << 20
    disk: int = 64 << 20
    files: int = 1000
    numpy: bool = False


@dataclass(frozen=True)
class Outcome:
    """Whether a program passed; if not, `reason` says why it did not reach its end."""

    passed: bool
    reason: str


def run_all(programs: Sequence[str], limits: Limits, allow_unsafe: bool) -> list[Outcome]:
    """The outcome of each program, in their order; half as many run at once as there are cores."""
    workers = max(1, (os.cpu_count() or 2) // 2)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_program(source, limits, allow_unsafe), programs))


def run_program(source: str, limits: Limits, allow_unsafe: bool = False) -> Outcome:
    """Run Python source; it passes if it reaches its end without an exception.

    A program that exits earlier, by `sys.exit` or `os._exit`, does not pass. One that ends without
    a word is run again, as the system may have killed it, to which memory was short.

    Raises:
        UserError: This machine has no sandbox, and `allow_unsafe` is false.
    """
    require_sandbox("this program", allow_unsafe)
    how = available_sandbox()
    outcome = _run(source, limits, how)
    return _run(source, limits, how) if outcome.reason == _SILENT else outcome


def require_sandbox(task: str, allow_unsafe: bool) -> None:
    """Raise UserError if there is no sandbox and the user has not allowed programs without one."""
    if not allow_unsafe and available_sandbox() is None:
        raise UserError(
            f"{task} runs programs that the model wrote, and this machine has no sandbox for them "
            "(neither bubblewrap nor unprivileged user namespaces): install bubblewrap, or set "
            "suite.allow_unsafe_code=true to run them unprotected"
        )


def available_sandbox() -> str | None:
    """The first of KINDS that works on this machine; None if none does."""
    return next((how for how in KINDS if is_available(how)), None)


@functools.cache
def is_available(how: str) -> bool:
    """Whether this kind of sandbox works on this machine; tries to break a limit in it."""
    there = sys.platform == "linux" and platform.machine() in MACHINES
    if how == "bubblewrap":
        there = there and shutil.which("bwrap") is not None
    return there and _run(_FORKS, Limits(processes=_FEW), how).passed


def _run(source: str, limits: Limits, how: str | None) -> Outcome:
    # The real interpreter, as a virtual environment's link would lead out of the sandbox.
    start = [os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c", _START]
    reading, writing = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="talr-sandbox-") as folder,
        tempfile.TemporaryFile() as orders,
    ):
        token = secrets.token_hex(16)
        order = {
            "source": source,
            "token": token,
            "pipe": writing,
            "limits": asdict(limits),
            "filter": how and call_filter(platform.machine()),
            "bwrap": shutil.which("bwrap") if how == "bubblewrap" else None,
            "nobody": _can_be_nobody(),
            "start": start,
            "script": _script(),
            "folder": folder,
            "visible": [
                path
                for path in (*_SYSTEM, sys.base_prefix, *(_numpy() if limits.numpy else ()))
                if Path(path).exists()
            ],
            "packages": sorted(
                {str(Path(path).parent) for path in _numpy()} if limits.numpy else ()
            ),
        }
        orders.write(marshal.dumps(order))
        orders.flush()
        process = subprocess.Popen(
            [*start, "contain" if how else "run", str(orders.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd=folder,
            pass_fds=(writing, orders.fileno()),
            start_new_session=True,  # Ctrl-C is for the caller, who then ends it
        )
        os.close(writing)
        try:
            in_time = wait_for(reading, process.pid, limits.seconds)
            # It is written at once, so that one reading has all of it.
            said = os.read(reading, _REASON_BYTES).decode(errors="replace") if in_time else None
        finally:
            os.close(reading)
            _end_process(process, how)
    if said is None:
        return Outcome(False, f"not at its end after {limits.seconds:g} s")
    if said == token:
        return Outcome(True, "")
    return Outcome(False, said or _SILENT)


@functools.cache
def _can_be_nobody() -> bool:
    """Whether we are root and can become `nobody`, since root has no limit on processes.

    The root of a container may be an ordinary user outside of it. Then its namespace often has no
    other user, but the limit applies anyway.
    """
    if os.getuid() != 0 or sys.platform != "linux":
        return False
    known = [
        [map(int, line.split()) for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        for kind in ("uid", "gid")
    ]
    return all(
        any(first <= _NOBODY < first + count for first, _, count in ranges) for ranges in known
    )


@functools.cache
def _numpy() -> tuple[str, ...]:
    """The folders of numpy, and of the libraries that its wheel brings along."""
    found = importlib.util.find_spec("numpy")
    if found is None or found.origin is None:
        return ()
    package = Path(found.origin).resolve().parent
    return str(package), str(package.with_name("numpy.libs"))


@functools.cache
def _script() -> CodeType:
    path = Path(__file__).with_name("inside.py")
    return compile(path.read_text(encoding="utf-8"), path, "exec")


def _end_process(process: subprocess.Popen[bytes], how: str | None) -> None:
    """Close the outer process's input, so that it ends everything and itself; wait for it."""
    assert process.stdin is not None
    process.stdin.close()
    if how is None:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # a process that cannot be killed: a file system hangs
        process.kill()
        process.wait()
