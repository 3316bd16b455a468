"""One owner at a time: after crashes, without a shared flock, seen from another machine."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talr_cli.errors import InUseError
from talr_cli.runs import lease

HOLD = """
import sys, time
from pathlib import Path
from talr_cli.runs.lease import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / ".lock"


@pytest.fixture
def holder(path):
    """Another process that owns `path`."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout.readline()
    yield child
    child.kill()
    child.wait()


def owner_file(path):
    return path.with_name(".lock.owner")


def as_of_another_machine(path, age):
    """Rewrite the owner's file as another machine would have written it, `age` seconds ago."""
    file = owner_file(path)
    written = json.loads(file.read_text()) if file.exists() else vars(lease.Owner())
    file.write_text(json.dumps({**written, "kernel": "another", "host": "elsewhere"}))
    os.utime(file, (time.time() - age, time.time() - age))


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_owner_is_seen_without_being_disturbed(path, holder):
    assert lease.owner(path).pid == holder.pid
    with pytest.raises(InUseError, match=f"pid {holder.pid} on "), lease.hold(path):
        pass


def test_what_a_killed_owner_leaves_is_free(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert owner_file(path).exists()
    assert lease.owner(path) is None
    with lease.hold(path):
        assert lease.owner(path).pid == os.getpid()
    assert lease.owner(path) is None


def test_an_owner_that_could_not_take_its_file_away_owns_nothing(path, monkeypatch):
    """In a notebook it lives on, and would be in its own way."""
    unlink = Path.unlink

    def refuse(self, **options):
        if self == owner_file(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with lease.hold(path):
        pass
    monkeypatch.undo()
    assert owner_file(path).exists()
    assert lease.owner(path) is None
    with lease.hold(path):
        assert lease.owner(path).pid == os.getpid()
        with pytest.raises(InUseError), lease.hold(path):
            pass
        path.unlink()  # as where flock is not shared
        with pytest.raises(InUseError), lease.hold(path):
            pass


def test_without_a_shared_flock_the_owners_file_decides(path, holder):
    path.unlink()  # a lock on another file, as where flock is not shared
    with pytest.raises(InUseError), lease.hold(path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lease.hold(path):
        pass


def test_another_machine_owns_it_as_long_as_it_touches_its_file(path):
    path.parent.mkdir()
    as_of_another_machine(path, age=lease.STALE / 2)
    assert lease.owner(path).host == "elsewhere"
    with pytest.raises(InUseError, match="elsewhere"), lease.hold(path):
        pass
    for age in (lease.STALE + 5, -3600):  # or the clock was set back since it died
        as_of_another_machine(path, age)
        assert lease.owner(path) is None
    with lease.hold(path):
        assert lease.owner(path).pid == os.getpid()


def test_waiting_ends_with_the_owner(path, holder):
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("sys.argv[1])", "sys.argv[1]), wait=True"), str(path)],
        stdout=subprocess.PIPE,
    )
    try:
        time.sleep(0.5)
        assert waiting.poll() is None
        assert lease.owner(path).pid == holder.pid
        holder.kill()
        holder.wait()
        assert waiting.stdout.readline() == b"held\n"
        assert lease.owner(path).pid == waiting.pid
    finally:
        waiting.kill()
        waiting.wait()


RACE = """
import sys
from pathlib import Path
from talr_cli.runs.lease import hold
from talr_cli.errors import InUseError
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.readline()
except InUseError:
    print("lost", flush=True)
"""


def test_of_several_that_take_over_at_once_one_wins(path):
    for _ in range(3):
        path.parent.mkdir(exist_ok=True)
        as_of_another_machine(path, age=lease.STALE + 60)
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for _ in range(4)
        ]
        try:
            assert {racer.stdout.readline() for racer in racers} == {"ready\n"}
            for racer in racers:
                racer.stdin.write("go\n")
            ends = sorted(racer.stdout.readline() for racer in racers)  # the winner holds it still
            assert ends == ["lost\n"] * 3 + ["won\n"]
        finally:
            for racer in racers:
                racer.communicate()


@pytest.mark.parametrize("has_ended", [False, True])
def test_an_owner_that_was_taken_for_dead_ends(has_ended, path):
    beat = "from talr_cli.runs import lease; lease.HEARTBEAT = 0.1\n"
    child = subprocess.Popen(
        [sys.executable, "-c", beat + HOLD, str(path)], stdout=subprocess.PIPE, stderr=-1
    )
    assert child.stdout.readline()
    touched = owner_file(path).stat().st_mtime_ns
    wait_until(lambda: owner_file(path).stat().st_mtime_ns > touched)
    if has_ended:
        owner_file(path).unlink()
    else:
        as_of_another_machine(path, age=0)
    assert child.wait(timeout=60) == 75
    assert b"taken over" in child.stderr.read()
