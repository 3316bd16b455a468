"""Records the environment of a run: Python, packages, hardware and the git commit."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "talr",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "math-verify",
    "wandb",
    "hydra-core",
    "omegaconf",
)


def collect_environment() -> dict[str, Any]:
    """The content of `env.json`."""
    import torch  # heavy: not at module import

    cuda = torch.cuda
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "gpus": [cuda.get_device_name(index) for index in range(cuda.device_count())],
        "packages": package_versions(),
        "git_commit": _git_commit(),
    }


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that can change a result; None if not installed."""
    return {package: _version(package) for package in PACKAGES}


@cache  # a run asks ten times, and each lookup reads a file
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
