"""A lock that one process holds at a time, on one machine or several, and that survives crashes.

On one machine flock decides: the system releases it when the process dies. Some network file
systems do not share flock between machines, so the owner also writes a file that says who it is,
and touches it as long as it lives. The file of another machine is stale if its last touch is
`STALE` seconds away by the clock of the file system. So is a file that cannot be parsed, unless
there is no flock: then it may be half written.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from talr_cli.errors import IN_USE, InUseError
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.process import process_start
from talr_cli.runs.reading import read_text

HEARTBEAT = 10.0  # seconds between two touches
STALE = 120.0  # seconds; NFS may show a time that is a minute old
POLL = 1.0  # seconds between two attempts while another process holds the lock
INSTANT = 0.1  # seconds within which a file that is moved aside is moved back

T = TypeVar("T")
log = logging.getLogger(__name__)
_held: set[int] = set()  # open files with a flock
_tokens: set[str] = set()  # of the leases that this process holds


@dataclass(frozen=True)
class Owner:
    """A process on some machine; `kernel` identifies a boot of it."""

    host: str = field(default_factory=socket.gethostname)
    kernel: str = field(default_factory=lambda: _boot_id())
    processes: str = field(default_factory=lambda: _process_namespace())
    pid: int = field(default_factory=os.getpid)
    start: str | None = field(default_factory=lambda: process_start(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@contextmanager
def hold(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` within this context; `wait` until another process releases it.

    Raises:
        InUseError: Another process holds it.
        UserError: The system refuses to write there.
    """
    me = Owner()
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    done = threading.Event()
    logged = False
    try:
        while True:
            try:
                _claim(path, _flock(path, file), me)
                break
            except InUseError as error:
                if not wait:
                    raise
                if not logged:
                    log.info("waiting: %s", error)
                    logged = True
                time.sleep(POLL)
        _held.add(file)
        _tokens.add(me.token)
        try:
            threading.Thread(target=_keep_alive, args=(path, me, done), daemon=True).start()
            yield
        finally:
            done.set()
            _tokens.discard(me.token)
            if _read_owner(path) == me:
                with suppress(OSError):  # else the next process finds that its owner is dead
                    _owner_file(path).unlink()
    finally:
        _held.discard(file)
        os.close(file)


def owner(path: Path) -> Owner | None:
    """The living process that holds `path`, or None; the lock is not taken for it."""
    found = _read_owner(path)
    return found if found is not None and _is_alive(path, found) else None


def read_or_make(path: Path, read: Callable[[], T | None], make: Callable[[], T]) -> T:
    """What `read` reads from the file `path`; if that is None, what `make` makes and writes there.

    Of several processes that ask for the same file, one makes it and the others wait.
    """
    modified = _modified(path)
    found = read()
    if found is not None:
        return found
    with hold(path.with_suffix(".lock"), wait=True):
        if _modified(path) != modified:  # unchanged, it would only be warned of a second time
            found = read()
        return make() if found is None else found


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        # The file belongs to another user of a shared folder; flock only needs to read it.
        return os.open(path, os.O_RDONLY)


def _flock(path: Path, file: int) -> bool:
    """Whether this process now has the flock; False if the file system does not support it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, _read_owner(path)) from None
    except OSError:
        return False
    return True


def _claim(path: Path, has_flock: bool, me: Owner) -> None:
    """Create the owner file, replacing that of a dead owner."""
    target = _owner_file(path)
    with explain_write_errors(target):
        while True:
            try:
                with target.open("x", encoding="utf-8") as file:
                    json.dump(asdict(me), file)
                return
            except FileExistsError:
                found = _read_owner(path)
            if _is_alive(path, found, has_flock):
                raise _in_use(path, found)
            # Of several processes here, one moves the file away. By then another may have created
            # its own file, which is moved back.
            aside = target.with_name(f"{target.name}.{me.token}")
            with suppress(FileNotFoundError):
                target.rename(aside)
                if _parse_owner_file(aside) != found and not target.exists():
                    aside.rename(target)
                aside.unlink(missing_ok=True)


def _keep_alive(path: Path, me: Owner, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        found = _read_owner(path)
        if found == me:
            with suppress(OSError):
                os.utime(_owner_file(path))
        elif (found is not None or _is_gone(path)) and not done.is_set():
            # We were suspended for so long that others took us for dead, and may have ended by now.
            # Two must not write.
            by = found or "another process, which has ended,"
            log.error("%s: taken over by %s while this process was suspended", path.parent, by)
            os._exit(IN_USE)


def _is_gone(path: Path) -> bool:
    """Whether there is no owner's file any more; `_claim` may move it away and back."""
    for _ in range(2):
        try:
            _owner_file(path).stat()
        except FileNotFoundError:
            time.sleep(INSTANT)
        except OSError:
            return False
        else:
            return False
    return True


def _is_alive(path: Path, found: Owner | None, has_flock: bool = False) -> bool:
    """Whether the owner in the file is still alive.

    Args:
        found: The owner; None: the file cannot be parsed.
        has_flock: Whether this process has the flock.
    """
    if found is None and has_flock:
        return False
    if found is not None and found.kernel == _boot_id():
        if found.processes == _process_namespace():
            if (
                found.pid == os.getpid()
            ):  # perhaps an earlier lease, whose file could not be deleted
                return found.token in _tokens
            return found.start is not None and process_start(found.pid) == found.start
        if has_flock:  # an owner in another container of this machine would have it
            return False
    try:
        # Opening the file makes NFS ask the server.
        with _owner_file(path).open("rb") as file:
            age = _file_system_time(path.parent) - os.fstat(file.fileno()).st_mtime
            return abs(age) < STALE  # the clock may have been set back since a dead owner's touch
    except FileNotFoundError:
        return False


def _file_system_time(folder: Path) -> float:
    """The time by the clock of the file system; by our own if nothing can be written there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _read_owner(path: Path) -> Owner | None:
    return _parse_owner_file(_owner_file(path))


def _parse_owner_file(file: Path) -> Owner | None:
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


def _boot_id() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _process_namespace() -> str:
    """The namespace of process ids, as containers of one machine have their own."""
    namespace = Path("/proc/self/ns/pid")
    return str(namespace.readlink()) if namespace.exists() else ""


def _close_inherited() -> None:
    for file in _held:
        os.close(file)
    _held.clear()
    _tokens.clear()


# A forked worker inherits the lock, and would keep it after its killed parent.
os.register_at_fork(after_in_child=_close_inherited)
