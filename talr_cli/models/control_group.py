"""How much memory Linux's control groups leave to this process: a container's, a cluster job's.

Knows version 2, with one tree for everything, and version 1, with a tree for memory alone. Any
group above the process's own may have a limit. Inside a container the process's group may be the
root of what is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# The files of a group, by version: the limit, what is taken, and the keys in its statistics for the
# part of that which is cached files: the kernel frees those when memory is asked for.
_FILES = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: (
        *("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_inactive_file", "total_active_file"),
    ),
}


def limits(groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[tuple[int, int]]:
    """(most, free) in bytes of every group above this process that has a limit.

    Args:
        groups: The kernel's list of the groups of this process.
        mount: Where the groups lie.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            version, tree = 2, mount
        elif "memory" in kinds.split(","):
            version, tree = 1, mount / "memory"
        else:
            continue
        own = tree / path.lstrip("/")
        for group in (own, *own.parents):
            found = _limit(group, version)
            if found is not None:
                yield found
            if group == tree:
                break


def _limit(group: Path, version: int) -> tuple[int, int] | None:
    most_file, taken_file, reclaimed = _FILES[version]
    try:
        most = int((group / most_file).read_text(encoding="utf-8"))  # "max" where there is none
        taken = int((group / taken_file).read_text(encoding="utf-8"))
        statistics = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        counts = dict(line.split() for line in statistics)
        taken -= sum(int(counts.get(name, 0)) for name in reclaimed)
    except (OSError, ValueError):
        return None
    return most, most - taken
