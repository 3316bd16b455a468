"""The GPUs of this machine, as the driver's tool tells them: torch is not imported for it."""

from __future__ import annotations

import os
import subprocess
from functools import cache


@cache
def _driver() -> dict[str, int]:
    """{index: bytes of memory}."""
    query = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    if listing.returncode:
        return {}
    pairs = (line.split(", ") for line in listing.stdout.splitlines())
    return {index: int(mebibytes) * 2**20 for index, mebibytes in pairs}


def gpu_names() -> list[str]:
    """Of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(_driver())
    return [name.strip() for name in visible.split(",") if name.strip()]


def gpu_memory() -> list[int]:
    """Bytes of each GPU that may be used and that the driver knows by its index."""
    return [_driver()[name] for name in gpu_names() if name in _driver()]
