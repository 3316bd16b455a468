"""How much memory of a device this process may take, and whether an error says it ran out."""

from __future__ import annotations

import gc
import os

import psutil

from talr_cli.models.control_group import limits

# Share of the free memory. The rest is for the allocator's waste, on a CPU also for other processes
# and the cache of files.
USABLE = {"cuda": 0.92, "cpu": 0.8}
# What torch says where it has no exception class of its own: CPUs, Apple GPUs, CUDA's libraries.
_NO_MEMORY = (
    *("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory"),
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
WORKERS = "TALR_WORKERS"  # in the environment: runs that share the memory of this device


def free_memory(device: str) -> float:
    """Bytes that this process may take on its device."""
    if device == "cuda":
        import torch

        (free, total), ranks = torch.cuda.mem_get_info(), 1
        held = torch.cuda.memory_allocated()
        # Freed memory that torch still reserves is free for this process.
        free += torch.cuda.memory_reserved() - held
    else:
        free, total = _of_the_machine()
        ranks, held = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 0
    share = total / int(os.environ.get(WORKERS, "1")) - held
    return USABLE[device] * max(0, min(free, share)) / ranks


def give_back() -> None:
    """Return to the device the memory that nothing here holds any more."""
    import torch

    gc.collect()  # a model may be part of a cycle, and a trainer's is
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was no memory."""
    import torch

    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in _NO_MEMORY)


def machine_memory() -> float:
    """Bytes of this machine's memory, or of what a container or a cluster's job may take of it."""
    return _of_the_machine()[1]


def _of_the_machine() -> tuple[int, int]:
    """(free, total) bytes, within the limits of this process's control groups."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for most, left in limits():
        free, total = min(free, left), min(total, most)
    return free, total


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
