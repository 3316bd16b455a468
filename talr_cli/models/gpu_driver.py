"""Whether this machine has the driver of a GPU that torch cannot use, and why.

Else a run with device=auto would train on the CPU for a night, beside an idle GPU.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from talr_cli.errors import reason_of

# Files of GPU drivers: NVIDIA's, on a Jetson, in WSL; AMD's.
DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/usr/lib/wsl/lib/libcuda.so.1", "/dev/kfd")
_HIDE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def has_driver() -> bool:
    """Whether there is a driver, with or without nvidia-smi."""
    return any(Path(file).exists() for file in DRIVERS)


def hidden_by() -> str | None:
    """The environment variable that hides all GPUs on purpose, and its value; None: none does."""
    hides = ("", "-1", "NoDevFiles")
    return next((f"{one}={os.environ[one]}" for one in _HIDE if os.environ.get(one) in hides), None)


@cache
def unusable_gpu() -> str | None:
    """Why torch cannot use the GPU whose driver is here; None: it can, or there is no such GPU."""
    if not has_driver() or hidden_by() is not None:
        return None
    import torch  # takes seconds, so only if there is a GPU

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs only: install one built for your GPU"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return f"torch {torch.__version__} cannot use it: {reason_of(error)}"
    return f"torch {torch.__version__} sees none"
