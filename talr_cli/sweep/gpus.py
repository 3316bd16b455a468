"""The GPUs of this machine, as the driver's tool tells them: torch is not imported for it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from itertools import takewhile


@cache
def _driver() -> dict[str, int | None]:
    """{index: bytes of memory}; None where the driver does not say, as the CPU's is the GPU's."""
    query = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, check=False)
    except OSError:
        return {}
    if listing.returncode:
        return {}
    pairs = (line.split(", ") for line in listing.stdout.splitlines() if ", " in line)
    return {
        index: int(mebibytes) * 2**20 if mebibytes.isdecimal() else None
        for index, mebibytes in pairs
    }


def gpu_names() -> list[str]:
    """Of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them: -1 ends its list."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(_driver())
    names = (name.strip() for name in visible.split(","))
    return [name for name in takewhile(lambda name: name != "-1", names) if name]


def gpu_memory() -> list[int]:
    """Bytes of each GPU that may be used and whose memory the driver knows by its index."""
    known = (_driver().get(name) for name in gpu_names())
    return [memory for memory in known if memory is not None]
