"""Shows the progress of the work, which any code reports here in the way that it logs messages.

On a terminal there is one live line; elsewhere a plain line at every tenth and after a long
silence. A file in the run's folder has the same for other processes, such as a sweep. A thread
shows it twice a second: the work only sets numbers, and never waits for a terminal.

Does not know what the work is, nor who watches.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from talr_cli.printable import printable, printable_lines

TICK = 0.5  # seconds between updates of what is shown
WRITE = 2.0  # seconds between writes of the file
MIN_INTERVAL = 5.0  # seconds between plain lines at least; short work prints none
FIRST_SILENCE = 30.0  # seconds until a plain line is due; doubles each time up to MAX_SILENCE
MAX_SILENCE = 300.0
FILE = ".progress.tmp"  # if a kill leaves it behind, it is deleted like other temporary files
BAR = 20  # characters of the bar

Item = TypeVar("Item")
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """A piece of work of this process.

    Attributes:
        what: Its name.
        total: The number of its items; 0: unknown.
        done: How many items are done, perhaps with a fraction.
        label: What is done at the moment.
        text: Returns the text to show instead of the above.
    """

    what: str
    total: int = 0
    done: float = 0.0
    label: str = ""
    text: Callable[[], str] | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.first = self.done
        self.ranges = [(0.0, float(self.total))]  # (begin, size) of each nested `share`
        self.printed_at, self.silence, self.tenth = self.started, FIRST_SILENCE, self._tenths()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float | None:
        """The estimated seconds that are left, by the pace so far; None if nothing is done."""
        done = self.done - self.first
        return None if done <= 0 else self.seconds / done * (self.total - self.done)

    def line(self, width: int = 0) -> str:
        """The progress as text, with a bar for a terminal if `width` is its number of columns."""
        if self.text is not None:
            return self.text()
        parts = [f"{int(self.done)}/{self.total}"] if self.total else []
        left = self.left if self.total else None
        parts.append(f"{clock(self.seconds)} so far" if left is None else f"{clock(left)} left")
        parts += [self.label] if self.label else []
        if not width:
            return f"{self.what}: {', '.join(parts)}"
        full = int(BAR * self.done / self.total) if self.total else 0
        bar = [f"[{'#' * full}{' ' * (BAR - full)}]"] if self.total else []
        return " ".join([self.what, *bar, *parts])

    def plain_is_due(self) -> bool:
        """Whether a plain line is due now."""
        tenth, elapsed = self._tenths(), time.monotonic() - self.printed_at
        if elapsed < (self.silence if tenth == self.tenth else MIN_INTERVAL):
            return False
        if tenth == self.tenth:
            self.silence = min(2 * self.silence, MAX_SILENCE)
        self.tenth, self.printed_at = tenth, time.monotonic()
        return True

    def _tenths(self) -> int:
        return int(10 * self.done / self.total) if self.total else 0


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Shown:
    """The state of this process's progress display."""

    def __init__(self) -> None:
        self.works: list[Work] = []  # the last one is shown
        self.folder: Path | None = None
        self.quiet = False
        self.is_paused = False
        self.lock = threading.RLock()  # of the live line
        self._is_drawn = False
        self._written = 0.0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, work: Work) -> None:
        self.works.append(work)
        if self._thread is None and os.environ.get("RANK", "0") == "0":
            self._end.clear()
            self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._thread.start()

    def end(self, work: Work) -> None:
        if work in self.works:  # unfinished work within it ends, too
            del self.works[self.works.index(work) :]
        if not self.works and self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None
        self.clear()

    def _tick(self) -> None:
        while not self._end.wait(TICK):
            works = self.works[-1:]
            if works:
                self._show(works[0])

    def _show(self, work: Work) -> None:
        if self.folder is not None and time.monotonic() - self._written > WRITE:
            self._written = time.monotonic()
            _write(self.folder / FILE, work)
        if self.quiet or self.is_paused:
            return
        if is_live():
            self.draw(work)
        elif work.plain_is_due():
            log.info("%s", work.line())  # without our lock, as logging has its own

    def draw(self, work: Work) -> None:
        width = shutil.get_terminal_size().columns
        text = printable(work.line(width))[: width - 1]
        with self.lock:
            if self._library_bar_shown():
                return
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
            self._is_drawn = True

    def clear(self) -> None:
        with self.lock:
            if self._is_drawn:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._is_drawn = False

    def _library_bar_shown(self) -> bool:
        """Whether a library shows a bar now, for example of a download."""
        bars = sys.modules.get("tqdm.std")
        return bars is not None and any(not one.disable for one in list(bars.tqdm._instances))


_shown = _Shown()


def is_live() -> bool:
    """Whether standard error is a terminal that can write over a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def be_quiet() -> None:
    """Show no progress from now on, and log only warnings."""
    _shown.quiet = True
    logging.getLogger("talr_cli").setLevel(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"  # bars of the libraries


class _EscapingFormatter(logging.Formatter):
    """Escapes control characters, as messages may contain names and rows from files."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class _LineClearingHandler(logging.StreamHandler[TextIO]):
    """Prints a message in the place of the live line, which reappears below it."""

    def emit(self, record: logging.LogRecord) -> None:
        with line_cleared():
            super().emit(record)


def set_up_logging() -> None:
    """Set up logging: talr's messages from INFO on, those of libraries from WARNING on."""
    handler = _LineClearingHandler(sys.stderr)
    handler.setFormatter(_EscapingFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("talr_cli").setLevel(logging.INFO)


@contextmanager
def shown_by_another_process() -> Iterator[bool]:
    """Leave the terminal to another process for a while; yields whether that should be quiet."""
    _shown.is_paused = True
    _shown.clear()
    try:
        yield _shown.quiet
    finally:
        _shown.is_paused = False


@contextmanager
def line_cleared() -> Iterator[None]:
    """Clear the live line for a message; it reappears by itself."""
    with _shown.lock:
        _shown.clear()
        yield


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Within this context the progress is also written to `folder`, for other processes."""
    before, _shown.folder = _shown.folder, folder
    try:
        yield
    finally:
        _shown.folder = before
        with suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)


@contextmanager
def work(
    what: str, total: int = 0, done: float = 0.0, text: Callable[[], str] | None = None
) -> Iterator[Work]:
    """Show this work within the context, instead of the work around it."""
    with _working_on(Work(what, total, done, text=text)) as own:
        yield own
    if total and text is None and not _shown.quiet and os.environ.get("RANK", "0") == "0":
        parts = [f"{int(own.done)}/{total}", own.label, clock(own.seconds)]
        log.info("%s: %s", what, ", ".join(part for part in parts if part))


def each(what: str, items: Sequence[Item]) -> Iterator[Item]:
    """Iterate over the items and show that as work."""
    with _working_on(Work(what, len(items))) as current:
        for item in items:
            yield item
            current.done += 1


@contextmanager
def _working_on(current: Work) -> Iterator[Work]:
    _shown.begin(current)
    try:
        yield current
    finally:
        _shown.end(current)


@contextmanager
def share(part: float, of: float | None = None, label: str | None = None) -> Iterator[None]:
    """Within this context, `part` out of `of` of the enclosing share is done.

    Args:
        of: The size of the enclosing share; None: `part` is a number of items of the work.
        label: What is shown meanwhile.
    """
    if not _shown.works:
        yield
        return
    current = _shown.works[-1]
    begin, (_, size) = current.done, current.ranges[-1]
    current.ranges.append((begin, part if of is None else size * part / of))
    if label is not None:
        current.label = label
    try:
        yield
        current.done = begin + current.ranges[-1][1]
    except BaseException:
        current.done = begin  # the caller may try again, with a smaller batch
        raise
    finally:
        current.ranges.pop()


def reach(fraction: float) -> None:
    """Report that this fraction of the innermost share is done."""
    if _shown.works:
        current = _shown.works[-1]
        begin, size = current.ranges[-1]
        current.done = begin + size * fraction


def read(folder: Path, since: float = 0.0) -> dict[str, Any] | None:
    """{what, label, done, total, left (seconds or None)}, as last written to `folder`; else None.

    Args:
        since: A Unix time; an older file was left by an earlier process that was killed.
    """
    try:
        if not (folder / FILE).is_file() or (folder / FILE).stat().st_mtime < since:
            return None
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"what": str, "label": str, "done": int, "total": int}
    if not isinstance(found, dict):
        return None
    if any(not isinstance(found.get(key), kind) for key, kind in kinds.items()):
        return None
    left = found.get("left")
    found["left"] = left if isinstance(left, int | float) else None
    return found


def _write(path: Path, work: Work) -> None:
    """Write the file atomically, but without fsync, as it is outdated in two seconds."""
    content = {
        "what": work.what,
        "label": work.label,
        "done": int(work.done),
        "total": work.total,
        "left": work.left if work.total else None,
    }
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as file:  # "x" never follows a link
            file.write(json.dumps(content))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):  # the disk is full or the folder was deleted
            temporary.unlink(missing_ok=True)
