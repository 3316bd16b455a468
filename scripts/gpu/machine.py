"""Section env: the machine, versions, the best rates of arithmetic and memory, imports."""

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from typing import Any

from gpu.measuring import Lines, Options, seconds_of

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets", "lm_eval", "tokenizers"),
    *("triton", "vllm", "bitsandbytes", "torchao", "flash_attn", "kernels"),
)
ASKED = (
    *("name", "driver_version", "memory.total", "memory.used", "mig.mode.current"),
    *("power.limit", "clocks.max.sm", "clocks.sm", "temperature.gpu", "ecc.mode.current"),
    *("clocks_throttle_reasons.active", "pcie.link.gen.current", "pcie.link.width.current"),
)
# What changes speed or memory without a word.
VARIABLES = ("CUDA_", "CUBLAS", "CUDNN", "NVIDIA_", "PYTORCH", "TORCH", "TRITON", "OMP_", "TALR_")


def driver() -> dict[str, Any]:
    """What the driver says of each GPU, and how much memory other processes hold on them."""
    return {
        "gpus_of_driver": _ask_driver(f"--query-gpu={','.join(ASKED)}"),
        "processes": _ask_driver("--query-compute-apps=pid,used_memory"),
    }


def _ask_driver(question: str) -> list[str]:
    """The lines of nvidia-smi's answer; none where it is missing or does not answer."""
    answer = ""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", question, "--format=csv"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    return answer.splitlines()


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
            "gpus": torch.cuda.device_count(),
            "built_for": " ".join(torch.cuda.get_arch_list()),
        }

    def settings() -> dict[str, Any]:
        return {
            "fp32_products": torch.get_float32_matmul_precision(),
            **{name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
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

    def from_host() -> dict[str, Any]:
        one = torch.ones(2**20 if options.small else 2**28).pin_memory()
        other = torch.empty_like(one, device=device)
        moved = one.nbytes / seconds_of(lambda: other.copy_(one, non_blocking=True), device)
        return {"gb_per_second": round(moved / 1e9, 1)}

    def imports() -> dict[str, Any]:
        # From a cold disk it may take a minute: here, so that the sections after it need not.
        started = time.perf_counter()
        for name in ("talr_cli.training.loop", "talr_cli.evaluation.evaluate"):
            importlib.import_module(name)
        return {"seconds": round(time.perf_counter() - started, 1)}

    lines.measure("versions", versions)
    lines.measure("settings", settings)
    if device == "cuda":
        lines.measure("gpu", gpu)
        lines.measure("driver", driver)
        lines.measure("copy of pinned memory to the GPU", from_host)
    lines.measure("product of bf16 matrices", product)
    lines.measure("copy", copy)
    lines.measure("imports", imports)
