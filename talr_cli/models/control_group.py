"""The memory that Linux control groups leave to this process, in a container or a cluster job.

Knows version 2, with one tree for all resources, and version 1, with a separate tree for memory.
The process's own group and all groups above it may have a limit. Inside a container the process's
group may appear as the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# {version: (file of the limit, file of the usage, keys in memory.stat)}. The keys are about cached
# files, which are part of the usage, but which the kernel frees if memory is needed.
_FILES = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: (
        *("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_inactive_file", "total_active_file"),
    ),
}


def memory_limits(groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[tuple[int, int]]:
    """(limit, free) in bytes, for each group of this process, or above it, that has a limit.

    Args:
        groups: The kernel's list of the groups of this process.
        mount: Where the groups are mounted.
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
