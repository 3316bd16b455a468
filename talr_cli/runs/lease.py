"""One owner at a time, among the processes of one machine and of several, that survives a crash.

On one machine flock decides: the system lets go of it when the process dies. Some network file
systems do not share it between machines, so that the owner also leaves a file that says who it is,
and touches it as long as it lives. A file of another machine that nobody touched for `STALE`
seconds, by the clock of the file system, belongs to nobody. An owner's file that cannot be
understood names nobody either, but where flock is missing: there it may be half written.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from talr_cli.errors import IN_USE, InUseError
from talr_cli.runs.disk import writing
from talr_cli.runs.process import process_start
from talr_cli.runs.reading import read_text

BEAT = 10.0  # seconds between two touches
STALE = 120.0  # seconds; also covers the minute for which NFS may show an old time
POLL = 1.0  # seconds between two tries to get what another process has

log = logging.getLogger(__name__)
_held: set[int] = set()  # open files with a flock
_tokens: set[str] = set()  # of the owners that this process is


@dataclass(frozen=True)
class Owner:
    """A process, wherever it runs. `kernel` tells boots of machines apart."""

    host: str = field(default_factory=socket.gethostname)
    kernel: str = field(default_factory=lambda: _kernel())
    processes: str = field(default_factory=lambda: _process_namespace())
    pid: int = field(default_factory=os.getpid)
    start: str | None = field(default_factory=lambda: process_start(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@contextmanager
def hold(path: Path, wait: bool = False) -> Iterator[None]:
    """Own `path`, a file made for that, while inside; with `wait` as soon as nobody else does.

    Raises:
        InUseError: Another process owns it.
        UserError: The system does not let us write there.
    """
    me = Owner()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    done = threading.Event()
    told = False
    try:
        while True:
            try:
                _claim(path, _flock(path, file), me)
                break
            except InUseError as error:
                if not wait:
                    raise
                if not told:
                    log.info("waiting: %s", error)
                    told = True
                time.sleep(POLL)
        _held.add(file)
        _tokens.add(me.token)
        try:
            threading.Thread(target=_beat, args=(path, me, done), daemon=True).start()
            yield
        finally:
            done.set()
            _tokens.discard(me.token)
            if _read(path) == me:
                with suppress(OSError):  # found to be a dead one's by the next
                    _owner_file(path).unlink()
    finally:
        _held.discard(file)
        os.close(file)


def owner(path: Path) -> Owner | None:
    """The living owner of `path`; looking does not disturb it."""
    found = _read(path)
    return found if found is not None and _lives(path, found) else None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        # Another user's, who shares the folder with us but not the file: flock needs no more.
        return os.open(path, os.O_RDONLY)


def _flock(path: Path, file: int) -> bool:
    """Whether this process now has the system's lock; False where the system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, _read(path)) from None
    except OSError:
        return False
    return True


def _claim(path: Path, has_flock: bool, me: Owner) -> None:
    """Put the owner's file in place, in that of a dead owner if need be."""
    target = _owner_file(path)
    with writing(target):
        while True:
            try:
                with target.open("x", encoding="utf-8") as file:
                    json.dump(asdict(me), file)
                return
            except FileExistsError:
                found = _read(path)
            if _lives(path, found, has_flock):
                raise _in_use(path, found)
            # Only one of several that come to this point gets the file away; another may by then
            # have put its own in place, and gets it back.
            aside = target.with_name(f"{target.name}.{me.token}")
            with suppress(FileNotFoundError):
                target.rename(aside)
                if _read_file(aside) != found and not target.exists():
                    aside.rename(target)
                aside.unlink(missing_ok=True)


def _beat(path: Path, me: Owner, done: threading.Event) -> None:
    while not done.wait(BEAT):
        found = _read(path)
        if found == me:
            with suppress(OSError):
                os.utime(_owner_file(path))
        elif found is not None and not done.is_set():
            # It was suspended for so long that others took it for dead. Two must not write.
            log.error("%s: taken over by %s while this process stood still", path.parent, found)
            os._exit(IN_USE)


def _lives(path: Path, found: Owner | None, has_flock: bool = False) -> bool:
    """Whether the owner that the file names still lives; None: it cannot be understood.

    `has_flock`: this process has the system's lock.
    """
    if found is None and has_flock:
        return False
    if found is not None and found.kernel == _kernel():
        if found.processes == _process_namespace():
            if found.pid == os.getpid():  # it could not take its file away
                return found.token in _tokens
            return found.start is not None and process_start(found.pid) == found.start
        if has_flock:  # in another container of this machine it would have it
            return False
    try:
        # Opening makes NFS ask the server.
        with _owner_file(path).open("rb") as file:
            return _now(path.parent) - os.fstat(file.fileno()).st_mtime < STALE
    except FileNotFoundError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock of the file system; by ours where nothing can be written to ask it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _read(path: Path) -> Owner | None:
    return _read_file(_owner_file(path))


def _read_file(file: Path) -> Owner | None:
    try:
        found = Owner(**json.loads(read_text(file)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (found.host, found.kernel, found.processes, found.start or "", found.token)
    return found if type(found.pid) is int and all(type(one) is str for one in texts) else None


def _in_use(path: Path, found: Owner | None) -> InUseError:
    return InUseError(
        f"{path.parent} is in use by {found or 'another process'}: wait for it or stop it"
    )


def _kernel() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _process_namespace() -> str:
    """Containers of one machine have process numbers of their own."""
    namespace = Path("/proc/self/ns/pid")
    return str(namespace.readlink()) if namespace.exists() else ""


def _close_inherited() -> None:
    for file in _held:
        os.close(file)
    _held.clear()
    _tokens.clear()


# A forked worker shares the lock: outliving a killed owner, it would keep what it owned.
os.register_at_fork(after_in_child=_close_inherited)
