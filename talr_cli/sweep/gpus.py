"""The GPUs of this machine, as listed by nvidia-smi or rocm-smi, without importing torch."""

import json
import os
import re
import subprocess
from functools import cache
from itertools import takewhile

TIMEOUT = 30.0  # seconds: with a broken GPU nvidia-smi may never answer
_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
_NVIDIA = (
    "nvidia-smi",
    "--query-gpu=index,uuid,memory.total",
    "--format=csv,noheader,nounits",
)
# nvidia-smi lists cards by their place on the bus. This variable makes CUDA number them so, too.
_ORDER, _AS_LISTED = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
_AMD = ("rocm-smi", "--showmeminfo", "vram", "--json")
_OWN_MEMORY = 2**31  # bytes; of a card with less the rest is the machine's memory (APUs)


def _query() -> list[tuple[str, str, int | None]]:
    """(index, UUID, bytes of memory) of each GPU; None if it shares the machine's memory."""
    return _nvidia() or _amd()


def _nvidia() -> list[tuple[str, str, int | None]]:
    rows = [line.split(", ") for line in _answer(_NVIDIA).splitlines()]
    return [
        (index, uuid, int(mebibytes) * 2**20 if mebibytes.isdecimal() else None)
        for index, uuid, mebibytes in (row for row in rows if len(row) == 3)
    ]


def _amd() -> list[tuple[str, str, int | None]]:
    """The same of AMD's, which ROCR_VISIBLE_DEVICES numbers anew."""
    answer = _answer(_AMD)
    try:
        cards = json.loads(answer[answer.find("{") :] or "{}")  # a warning may come first
        sizes = {
            name.removeprefix("card"): int(card.get("VRAM Total Memory (B)", 0))
            for name, card in cards.items()
            if name.startswith("card")
        }
    except (ValueError, AttributeError, TypeError):
        return []
    names = _listed(os.environ.get("ROCR_VISIBLE_DEVICES"), list(sizes))
    found = [sizes.get(name, 0) for name in names]
    return [
        (str(index), "", size if size > _OWN_MEMORY else None) for index, size in enumerate(found)
    ]


@cache
def _answer(command: tuple[str, ...]) -> str:
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if answer.returncode else answer.stdout


def visible_variable() -> str:
    """The environment variable that says which GPUs a process may use.

    HIP takes CUDA's, too, but its own first.
    """
    return "HIP_VISIBLE_DEVICES" if not _nvidia() and _amd() else "CUDA_VISIBLE_DEVICES"


def gpu_names() -> list[str]:
    """The usable GPUs, by the names that `visible_variable` takes."""
    every = [index for index, _, _ in _query()]
    visible = os.environ.get(visible_variable(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return _listed(visible, every)


def _listed(visible: str | None, every: list[str]) -> list[str]:
    """The names in such a variable; those of `every` GPU if it is not set."""
    if visible is None:
        return every
    # CUDA ignores everything after an invalid name, such as -1, or NoDevFiles of older SLURMs.
    return list(takewhile(_NAME.fullmatch, (name.strip() for name in visible.split(","))))


def only_gpus(names: list[str]) -> dict[str, str]:
    """The environment variables of a process that may use these of `gpu_names` only."""
    variables = {visible_variable(): ",".join(names)}
    # With all of them a run takes CUDA's first, which is the fastest.
    if names != gpu_names() and _nvidia() and not _numbered_by_cuda():
        variables[_ORDER] = _AS_LISTED
    return variables


def gpu_memory() -> list[int]:
    """Bytes of each usable GPU, as far as the driver says; that of a MIG part is unknown.

    So is that of a GPU named by CUDA's own number, where cards have different sizes.
    """
    every = _query()
    numbered = _numbered_by_cuda() and len({memory for *_, memory in every}) > 1
    return [
        memory
        for name in gpu_names()
        for index, uuid, memory in every
        if memory is not None and ((name == index and not numbered) or uuid.startswith(name))
    ]


def _numbered_by_cuda() -> bool:
    """Whether numbers are CUDA's own, by default the fastest card first, not nvidia-smi's."""
    if not _nvidia() or os.environ.get(_ORDER) == _AS_LISTED:
        return False
    return os.environ.get("CUDA_VISIBLE_DEVICES") is not None
