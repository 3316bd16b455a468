"""Attacks: each is contained, and nothing is left of it."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talr_cli.evaluation.sandbox import outside as sandbox
from talr_cli.evaluation.sandbox.outside import KINDS, Limits, require_sandbox, run_all, run_program

LIMITS = Limits(
    seconds=5, cpu_seconds=2, memory=256 << 20, file_size=1 << 20, disk=4 << 20, files=50
)


@pytest.fixture(params=KINDS, autouse=True)
def how(request, monkeypatch):
    """Every attack is made on every kind of sandbox that there is here."""
    if not sandbox.holds(request.param):
        pytest.skip(f"no {request.param} here")
    monkeypatch.setattr(sandbox, "kind", lambda: request.param)
    return request.param


def test_a_program_passes_when_it_comes_to_its_end():
    programs = ["import math, json, random, hashlib", "assert 1 + 1 == 3", "open('/tmp/a', 'w')"]
    outcomes = run_all(programs, LIMITS, allow_unsafe=False)
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert outcomes[1].reason == "AssertionError"


@pytest.mark.parametrize(
    "leave", ["import sys; sys.exit(0)", "import os; os._exit(0)", "exit()", "raise SystemExit"]
)
def test_leaving_early_is_no_pass(leave):
    assert not run_program(f"{leave}\nassert False", LIMITS).passed


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("open('/x', 'w')", "Read-only"),
        ("open('/usr/x', 'w')", "Read-only"),
        ("while True:\n    __import__('os').fork()", "Resource temporarily unavailable"),
        ("for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))", "No space left"),
        ("open('/tmp/x', 'wb').write(bytes(2 << 20))", "File too large"),
        ("bytearray(50 << 30)", "MemoryError"),
        ("while True: print('x' * 1000)", "ended before its end|after 5 s"),
        ("import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(99)", "after 5 s"),
        ("import os; os.kill(-1, 9)", "No such process"),
        ("import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0", "AssertionError"),
        (
            "import ctypes; assert ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0",
            "AssertionError",
        ),
    ],
)
def test_contained(attack, said):
    outcome = run_program(attack, LIMITS)
    assert not outcome.passed
    assert re.search(said, outcome.reason)


def test_the_number_of_files_is_limited(how):
    if how == "bubblewrap":
        pytest.skip("its folder in memory is limited by size alone")
    outcome = run_program("for i in range(999): open(f'/tmp/{i}', 'w').close()", LIMITS)
    assert "No space left" in outcome.reason


def test_secrets_of_the_environment_and_of_the_home_folder(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("key")
    monkeypatch.setenv("SECRET", "key")
    for theft in (
        f"assert open({str(secret)!r}).read() == 'key'",
        "import os; assert os.environ['SECRET'] == 'key'",
        f"import os; assert os.listdir({str(Path.home())!r}) == os.listdir({str(tmp_path)!r})",
    ):
        assert not run_program(theft, LIMITS).passed
    subprocess.run(
        [sys.executable, "-c", f"assert open({str(secret)!r}).read() == 'key'"], check=True
    )


def test_a_socket_of_this_machine_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack = f"import socket; socket.create_connection({server.getsockname()!r}, 2)"
        subprocess.run([sys.executable, "-c", attack], check=True)
        assert not run_program(attack, LIMITS).passed


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    marker = f"left-{os.getpid()}-{time.time_ns()}"
    run_program(
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', "
        f"{marker!r}])\n"
        "    os._exit(0)\n"
        "time.sleep(0.5)",
        LIMITS,
    )
    deadline = time.monotonic() + 10
    while marker in _command_lines() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marker not in _command_lines()
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_task_is_allowed_where_there_is_a_sandbox():
    require_sandbox("humaneval", allow_unsafe=False)


def _command_lines() -> str:
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_text())
        except OSError:
            continue  # it ended meanwhile
    return "".join(lines)
