"""Section env: the machine, versions, the best rates of arithmetic and memory, imports."""

import importlib
import importlib.util
import os
import sys
import time
from importlib import metadata
from typing import Any

from gpu.measuring import Lines, Options, seconds_of

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets", "lm_eval", "tokenizers"),
    *("triton", "vllm"),
)


def run(options: Options, lines: Lines) -> None:
    import torch

    device = options.device

    def versions() -> dict[str, Any]:
        found = {
            name: metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)
        }
        return {**found, "python": sys.version.split()[0], "cores": os.cpu_count()}

    def gpu() -> dict[str, Any]:
        free, total = torch.cuda.mem_get_info()
        return {
            "gpu": torch.cuda.get_device_name(),
            "gib": round(total / 2**30, 2),
            "free_gib": round(free / 2**30, 2),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }

    def product() -> dict[str, Any]:
        size = 256 if options.small else 8192
        one, other = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
        return {"tflops": round(2 * size**3 / seconds_of(lambda: one @ other, device) / 1e12, 2)}

    def copy() -> dict[str, Any]:
        count = 2**20 if options.small else 2**30
        one, other = (torch.ones(count, device=device) for _ in range(2))
        moved = 2 * one.nbytes / seconds_of(lambda: other.copy_(one), device)
        return {"tb_per_second": round(moved / 1e12, 3)}

    def imports() -> dict[str, Any]:
        # From a cold disk it may take a minute: here, so that the sections after it need not.
        started = time.perf_counter()
        for name in ("talr_cli.training.loop", "talr_cli.evaluation.evaluate"):
            importlib.import_module(name)
        return {"seconds": round(time.perf_counter() - started, 1)}

    lines.measure("versions", versions)
    if device == "cuda":
        lines.measure("gpu", gpu)
    lines.measure("product of bf16 matrices", product)
    lines.measure("copy", copy)
    lines.measure("imports", imports)
