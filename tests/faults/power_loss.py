"""What a disk holds after a power loss: every moment between two calls to the system, replayed.

Recorded are the calls by which Python code orders its writes: fsync, rename, mkdir, unlink, rmdir.
At each of them the folder is what it would be if the process ended there. A power loss also takes
what no fsync had asked for: contents, and names in folders. Does not see the order of single writes
within a file (nothing of a file counts as kept before its fsync), nor disks that lie about fsync.
"""

import os
import shutil
import stat
from pathlib import Path

CALLS = ("rename", "replace", "mkdir", "unlink", "rmdir")


class Recorder:
    """Keeps a copy of `folder` in `copies` for calls, with what was durable in it.

    For each `every`-th call, and for those whose numbers are put into `wanted`.
    """

    def __init__(self, folder: Path, copies: Path, every: int, monkeypatch) -> None:
        self.folder, self.copies, self.every = folder, copies, every
        self.calls = 0
        self.wanted: set[int] = set()
        self.moments: dict[int, tuple[Path, set[str], set[str]]] = {}
        self._contents: dict[int, tuple[int, int]] = {}  # inode: size, time
        self._names: dict[int, dict[str, int]] = {}  # folder's inode: its names
        for call in CALLS:
            monkeypatch.setattr(os, call, self._recorded(getattr(os, call)))
        fsync = os.fsync

        def synced(file):
            fsync(file)
            self._now_durable(file)
            self._take()

        monkeypatch.setattr(os, "fsync", synced)
        self._busy = False

    def _recorded(self, call):
        def recorded(*args, **kwargs):
            try:
                return call(*args, **kwargs)
            finally:
                self._take()

        return recorded

    def _now_durable(self, file: int) -> None:
        found = os.fstat(file)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(file) as entries:
                self._names[found.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._contents[found.st_ino] = (found.st_size, found.st_mtime_ns)

    def _take(self) -> None:
        if self._busy:
            return
        number, self.calls = self.calls, self.calls + 1
        if number % self.every and number not in self.wanted:
            return
        self._busy = True
        contents, names = set(), set()
        for part in self.folder.rglob("*"):
            found, name = part.stat(), str(part.relative_to(self.folder))
            if self._contents.get(found.st_ino) == (found.st_size, found.st_mtime_ns):
                contents.add(name)
            kept = self._names.get(part.parent.stat().st_ino, {})
            if kept.get(part.name) == found.st_ino or part.parent == self.folder:
                names.add(name)
        copy = self.copies / f"{number:04d}"
        shutil.copytree(self.folder, copy)
        self.moments[number] = (copy, contents, names)
        self._busy = False


def ended(copy: Path, contents: set[str], names: set[str]) -> None:
    """The process was killed: all that it wrote is there."""


def emptied(copy: Path, contents: set[str], names: set[str]) -> None:
    """Names came to the disk, contents did not (ext4 with delayed allocation)."""
    for file in _lost(copy, contents):
        os.truncate(file, 0)


def zeroed(copy: Path, contents: set[str], names: set[str]) -> None:
    """Names and sizes came to the disk, contents did not (XFS)."""
    for file in _lost(copy, contents):
        file.write_bytes(bytes(file.stat().st_size))


def forgotten(copy: Path, contents: set[str], names: set[str]) -> None:
    """Nothing came to the disk that was not asked for, new names included."""
    emptied(copy, contents, names)
    for part in sorted(copy.rglob("*"), reverse=True):
        if str(part.relative_to(copy)) not in names:
            shutil.rmtree(part) if part.is_dir() else part.unlink()


LOSSES = (ended, emptied, zeroed, forgotten)


def _lost(copy: Path, contents: set[str]) -> list[Path]:
    files = [part for part in copy.rglob("*") if part.is_file()]
    return [file for file in files if str(file.relative_to(copy)) not in contents]
