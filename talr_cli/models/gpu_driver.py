"""Whether this machine has the driver of a GPU that torch cannot use, and why.

Else a run with device=auto would train on the CPU for a night, beside an idle GPU.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from talr_cli.errors import reason_of

# Files of GPU drivers: NVIDIA's, on a Jetson, in WSL; AMD's.
DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/usr/lib/wsl/lib/libcuda.so.1", "/dev/kfd")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_CODE = re.compile(r"(sm|compute)_(\d+)")  # for cards of one generation, or of all later ones


def has_driver() -> bool:
    """Whether there is a driver, with or without nvidia-smi."""
    return any(Path(file).exists() for file in DRIVERS)


def hidden_by() -> str | None:
    """The environment variable that hides all GPUs on purpose, and its value; None: none does."""
    hides = ("", "-1", "NoDevFiles")
    return next(
        (f"{one}={os.environ[one]}" for one in VISIBLE if os.environ.get(one) in hides), None
    )


@cache
def unusable_gpu() -> str | None:
    """Why torch cannot use the GPU whose driver is here; None: it can, or there is no such GPU."""
    if not has_driver() or hidden_by() is not None:
        return None
    import torch  # takes seconds, so only if there is a GPU

    if torch.cuda.is_available():
        return _not_built_for(torch)
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs only: install one built for your GPU"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return f"torch {torch.__version__} cannot use it: {reason_of(error)}"
    return f"torch {torch.__version__} sees none"


def _not_built_for(torch: Any) -> str | None:
    """Why no kernel of torch runs on this process's card; None: they do, or nobody knows.

    torch itself warns, and the first kernel fails, after minutes of reading data and weights.
    """
    built = [(one[1], int(one[2])) for one in map(_CODE.match, torch.cuda.get_arch_list()) if one]
    if not built or torch.version.cuda is None:
        return None
    card = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    major, minor = torch.cuda.get_device_capability(card)
    own = 10 * major + minor
    for kind, code in built:
        if code <= own and (kind == "compute" or code // 10 == major):
            return None
    return (
        f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(card)} (sm_{own}), "
        f"only for {', '.join(f'{kind}_{code}' for kind, code in built)}: install a torch that was "
        "built for it (https://pytorch.org/get-started/previous-versions)"
    )
