"""Runs programs that a model wrote, where they can do no harm.

By bubblewrap where it is installed, otherwise in namespaces that `inside.py` makes with nothing but
the kernel; either for root and for an ordinary user, either with the filter of `calls.py`. Knows
programs and limits; does not know tasks or scores.

Covered, by both kinds alike: files outside (the root is empty and read-only but for Python's own
files and, for tests that use it, numpy's, the only writable place is a private folder in memory),
the environment, the network, keys, processes outside, the calls that open other parts of the kernel
(all but those in `calls.py`); memory and processor time of each process, number of processes, size
and number of files, shared memory and semaphores (files in that folder; System V's and message
queues are refused), endless output, programs that ignore signals, detach themselves or signal
everything they can reach. All of it ends with the program's first process, with the wall-clock
limit or with the caller, even if that is killed: the processes that see to it are out of the
program's reach.

Not covered: faults of the kernel in the calls that are left; time and load that are visible through
side channels; and a program that looks for the verdict's token in its own interpreter: it can claim
to have passed, as in every harness that tests a program in the program's own process. Memory is
limited for each process: together they may take `Limits.processes` times as much, and what the
kernel keeps for pipes and sockets; when the machine's runs out they are the first to be ended.
Where AppArmor leaves a program of bubblewrap's no rights, empty files are not counted. Before
Linux 5.14 all processes of an ordinary user count against the limit, not the program's alone, and
starting one can fail.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
import os
import platform
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType

from talr_cli.errors import UserError
from talr_cli.evaluation.sandbox.calls import MACHINES, call_filter

# The order is marshalled by this very interpreter, and holds the script (inside.py) to run.
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
_REASON_BYTES = 500  # what is kept of an error's text
KINDS = ("bubblewrap", "user-namespace")
_PATIENCE = 10.0  # seconds for the outer process to end everything and itself
_NOBODY = 65534
_FEW = 8  # processes that the trial may have
# Tried before a kind of sandbox is trusted: passes only where all was set up and a limit holds.
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
    """What a program may use; sizes in bytes, times in seconds.

    Attributes:
        numpy: Whether it may import numpy, beside Python's own library.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    processes: int = 16
    file_size: int = 16 << 20
    disk: int = 64 << 20
    files: int = 1000
    numpy: bool = False


@dataclass(frozen=True)
class Outcome:
    """`reason` is empty, or says why the program did not come to its end."""

    passed: bool
    reason: str


def run_all(programs: Sequence[str], limits: Limits, allow_unsafe: bool) -> list[Outcome]:
    """The outcome of each program, in their order; as many at a time as half the cores."""
    workers = max(1, (os.cpu_count() or 2) // 2)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_program(source, limits, allow_unsafe), programs))


def run_program(source: str, limits: Limits, allow_unsafe: bool = False) -> Outcome:
    """Run Python source to its end; passed only if it gets there without an exception.

    A program that leaves early, by `sys.exit` or `os._exit`, has not passed.

    Raises:
        UserError: This machine has no sandbox, and `allow_unsafe` is false.
    """
    require_sandbox("this program", allow_unsafe)
    return _run(source, limits, kind())


def require_sandbox(task: str, allow_unsafe: bool) -> None:
    """Raise UserError where programs could not be contained and the user did not allow that."""
    if not allow_unsafe and kind() is None:
        raise UserError(
            f"{task} runs programs that the model wrote, and this machine has no sandbox for them "
            "(neither bubblewrap nor unprivileged user namespaces): install bubblewrap, or set "
            "suite.allow_unsafe_code=true to run them unprotected"
        )


def kind() -> str | None:
    """The first of KINDS that holds here, or None."""
    return next((how for how in KINDS if holds(how)), None)


@functools.cache
def holds(how: str) -> bool:
    """Whether this kind of sandbox can be had here; found by trying to break out of it.

    A machine that is too busy to start the trial within seconds has a sandbox all the same.
    """
    there = sys.platform == "linux" and platform.machine() in MACHINES
    if how == "bubblewrap":
        there = there and shutil.which("bwrap") is not None
    return there and _run(_FORKS, Limits(seconds=60, processes=_FEW), how).passed


def _run(source: str, limits: Limits, how: str | None) -> Outcome:
    # The interpreter itself: a virtual environment's link would lead out of the sandbox.
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
            said = _read(reading, time.monotonic() + limits.seconds)
        finally:
            os.close(reading)
            _end(process, how)
    if said is None:
        return Outcome(False, f"not at its end after {limits.seconds:g} s")
    if said == token:
        return Outcome(True, "")
    return Outcome(False, said or "ended before its end was reached")


@functools.cache
def _can_be_nobody() -> bool:
    """Whether we are root and can become `nobody`, as the limit on processes does not bind root.

    Root of a container may be an ordinary user outside of it. Then its namespace often knows no
    other user, and the limit binds it as it is.
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


def _end(process: subprocess.Popen[bytes], how: str | None) -> None:
    """Close the outer process's input: it then ends everything and itself."""
    assert process.stdin is not None
    process.stdin.close()
    if how is None:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # a process that cannot be killed: a file system hangs
        process.kill()
        process.wait()


def _read(pipe: int, deadline: float) -> str | None:
    """What the runner says, cut; None when the deadline comes first."""
    said = b""
    while len(said) < _REASON_BYTES:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(pipe, _REASON_BYTES)
        if not piece:
            break
        said += piece
    return said[:_REASON_BYTES].decode(errors="replace")
