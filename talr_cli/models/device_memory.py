"""How much memory of a device this process may use, and whether an error says that it ran out."""

from __future__ import annotations

import gc
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from talr_cli.errors import UserError
from talr_cli.models.control_group import memory_limits

# The share of the free memory that may be used. The rest is for what the allocator wastes and, on a
# CPU, for other processes and the file cache.
USABLE = {"cuda": 0.92, "cpu": 0.8}
# Parts of the messages of errors that are not torch.OutOfMemoryError: of CPUs, Apple's GPUs, CUDA,
# its driver, HIP, NCCL and Triton; of the libraries, such as cuBLAS's.
_NO_MEMORY = ("out of memory", "can't allocate memory", "_ALLOC_FAILED")
_BYTES = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
WORKERS = "TALR_WORKERS"  # environment variable: how many runs share the memory of this device
TAKEN = "TALR_TAKEN"  # environment variable: the bytes of it that others held before these runs


def free_memory(device: str) -> float:
    """The bytes that this process may use on its device."""
    if device == "cuda":
        import torch

        (free, total), ranks = torch.cuda.mem_get_info(), 1
        held = torch.cuda.memory_allocated()
        # Memory that torch has reserved but does not use is free for this process.
        free += torch.cuda.memory_reserved() - held
    else:
        free, total = _free_and_total()
        ranks, held = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 0
    return USABLE[device] * max(0, min(free, own_share(total) - held)) / ranks


def own_share(total: float) -> float:
    """The part of a device's `total` bytes for this run, where several of a sweep share it."""
    taken, runs = (int(os.environ.get(name, least)) for name, least in ((TAKEN, 0), (WORKERS, 1)))
    return (total - taken) / runs


def release_memory() -> None:
    """Return memory that is no longer used to the device."""
    import torch

    gc.collect()  # a trainer's model is part of a reference cycle
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    import torch

    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in _NO_MEMORY)


def peak_memory_gib(device: str) -> float:
    """The peak memory of this process in GiB: on a CUDA GPU, else its resident memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def explain_shortage(work: str, device: str, way_out: str) -> Iterator[None]:
    """Turn running out of memory within this context into a UserError of one line.

    Args:
        work: What is done, such as "training".
        way_out: What to change.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{_shortage(work, error, device)}: {way_out}") from error


def _shortage(work: str, error: BaseException, device: str) -> str:
    """`WORK ran out of the GPU's memory: ...`, with the numbers, for an out-of-memory error."""
    match = _BYTES.search(str(error))
    wanted = "" if match is None else f" for {float(match[1]) * _UNITS[match[2]] / 2**30:.2f} GiB"
    where = "this machine's" if device == "cpu" else "the GPU's"
    return (
        f"{work} ran out of {where} memory: there was no room{wanted} more, "
        f"{peak_memory_gib(device):.2f} GiB were taken at most"
    )


def machine_memory() -> float:
    """The bytes of this machine's memory, or of a container's or cluster job's share of it."""
    return _free_and_total()[1]


def _free_and_total() -> tuple[int, int]:
    """(free, total) bytes, within the limits of this process's control groups."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for most, left in memory_limits():
        free, total = min(free, left), min(total, most)
    return free, total


def gib(size: float) -> str:
    """A size in bytes as text, such as `1.5 GiB`."""
    return f"{size / 2**30:.1f} GiB"
