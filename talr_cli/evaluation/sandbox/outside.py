"""Runs programs that a model wrote, where they can do no harm.

By bubblewrap where it is installed, otherwise in a user namespace that `inside.py` makes
with nothing but the kernel. Knows programs and limits; does not know tasks or scores.

Covered: files outside (the root is empty and read-only but for Python's own files, the only
writable place is a private folder in memory), the environment, the network, processes outside,
memory, processor time, number of processes, size and number of files, endless output, programs
that ignore signals or detach themselves. All of it ends with the wall-clock limit or the caller.

Not covered: faults of the kernel, time and load that are visible through side channels, and a
program that looks for the verdict's token in its own interpreter: it can claim to have passed, as
in every harness that tests a program in the program's own process. Memory is limited for each
process: together they may take `Limits.processes` times as much.
"""

from __future__ import annotations

import functools
import json
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

from talr_cli.errors import UserError

_INSIDE = Path(__file__).with_name("inside.py")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
_REASON_BYTES = 500
KINDS = ("bubblewrap", "user-namespace")
_FEW = 8
# No limit on processes binds root: bubblewrap, which maps one user alone, cannot hold root's.
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
    """What a program may use; sizes in bytes, times in seconds."""

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    processes: int = 16
    file_size: int = 16 << 20
    disk: int = 64 << 20
    files: int = 1000


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
    """Whether this kind of sandbox can be had here; found by trying to break out of it."""
    if how == "bubblewrap":
        there = shutil.which("bwrap") is not None
    else:
        there = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    return there and _run(_FORKS, Limits(processes=_FEW), how).passed


def _run(source: str, limits: Limits, how: str | None) -> Outcome:
    token = secrets.token_hex(16)
    order = {"token": token, "source": source, "limits": asdict(limits)}
    reading, writing = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="talr-sandbox-") as folder,
        tempfile.TemporaryFile() as orders,
    ):
        orders.write(json.dumps(order).encode())
        orders.seek(0)
        # In a session of its own, so that its whole group can be killed.
        process = subprocess.Popen(
            _command(how, folder, limits, writing),
            stdin=orders,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd=folder,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            said = _read(reading, time.monotonic() + limits.seconds)
        finally:
            os.close(reading)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if said is None:
        return Outcome(False, f"not at its end after {limits.seconds:g} s")
    if said == token:
        return Outcome(True, "")
    return Outcome(False, said or "ended before its end was reached")


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


def _command(how: str | None, folder: str, limits: Limits, pipe: int) -> list[str]:
    # The interpreter itself: a virtual environment's link would lead out of the sandbox.
    python = os.path.realpath(sys.executable)
    run = [python, "-I", "-S", "-X", "utf8"]
    visible = [path for path in (*_SYSTEM, sys.base_prefix) if Path(path).exists()]
    if how == "bubblewrap":
        runner = _INSIDE.read_text(encoding="utf-8")
        binds = [word for path in visible for word in ("--ro-bind", path, path)]
        return [
            *("bwrap", "--unshare-user", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
            *binds,
            *("--dev", "/dev", "--size", str(limits.disk), "--tmpfs", "/tmp", "--chdir", "/tmp"),
            *("--disable-userns", "--remount-ro", "/", "--"),
            *(*run, "-c", runner, "run", str(pipe)),
        ]
    action = "run" if how is None else "contain"
    return [*run, str(_INSIDE), action, str(pipe), folder, *visible]
