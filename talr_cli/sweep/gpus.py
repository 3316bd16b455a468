"""The GPUs of this machine, as listed by nvidia-smi, without importing torch."""

import os
import re
import subprocess
from functools import cache
from itertools import takewhile

TIMEOUT = 30.0  # seconds: with a broken GPU nvidia-smi may never answer
_NAME = re.compile(r"\d+|(GPU|MIG)-.+")


@cache
def _query() -> list[tuple[str, str, int | None]]:
    """(index, UUID, bytes of memory) of each GPU; None if it shares the machine's memory."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode:
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [
        (index, uuid, int(mebibytes) * 2**20 if mebibytes.isdecimal() else None)
        for index, uuid, mebibytes in (row for row in rows if len(row) == 3)
    ]


def gpu_names() -> list[str]:
    """The usable GPUs, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [index for index, _, _ in _query()]
    # CUDA ignores everything after an invalid name, such as -1, or NoDevFiles of older SLURMs.
    return list(takewhile(_NAME.fullmatch, (name.strip() for name in visible.split(","))))


def gpu_memory() -> list[int]:
    """Bytes of each usable GPU, as far as nvidia-smi knows; that of a MIG part is unknown."""
    return [
        memory
        for name in gpu_names()
        for index, uuid, memory in _query()
        if memory is not None and (name == index or uuid.startswith(name))
    ]
