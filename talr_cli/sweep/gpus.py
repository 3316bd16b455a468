"""The GPUs of this machine, as listed by nvidia-smi or rocm-smi, without importing torch."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

TIMEOUT = 30.0  # seconds: with a broken GPU nvidia-smi may never answer
_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
_NVIDIA = (
    "nvidia-smi",
    "--query-gpu=index,uuid,memory.total,memory.used",
    "--format=csv,noheader,nounits",
)
# nvidia-smi lists cards by their place on the bus. This variable makes CUDA number them so, too.
_ORDER, _AS_LISTED = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
_AMD = ("rocm-smi", "--showmeminfo", "vram", "--json")
_OWN_MEMORY = 2**31  # bytes; of a card with less the rest is the machine's memory (APUs)


@dataclass(frozen=True)
class _Card:
    """A GPU: its number and UUID, its bytes, and how many of these processes hold now.

    `memory` is None if it shares the machine's memory.
    """

    index: str
    uuid: str
    memory: int | None
    taken: int


def _query() -> list[_Card]:
    return _nvidia() or _amd()


def _nvidia() -> list[_Card]:
    rows = [line.split(", ") for line in _answer(_NVIDIA).splitlines()]
    return [
        _Card(index, uuid, _bytes(memory), _bytes(taken) or 0)
        for index, uuid, memory, taken in (row for row in rows if len(row) == 4)
    ]


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * 2**20 if mebibytes.isdecimal() else None


def _amd() -> list[_Card]:
    """The same of AMD's, which ROCR_VISIBLE_DEVICES numbers anew."""
    answer = _answer(_AMD)
    try:
        cards = json.loads(answer[answer.find("{") :] or "{}")  # a warning may come first
        sizes = {
            name.removeprefix("card"): [
                int(card.get(f"VRAM Total {what} (B)", 0)) for what in ("Memory", "Used Memory")
            ]
            for name, card in cards.items()
            if name.startswith("card")
        }
    except (ValueError, AttributeError, TypeError):
        return []
    names = _listed(os.environ.get("ROCR_VISIBLE_DEVICES"), list(sizes))
    found = [sizes.get(name, [0, 0]) for name in names]
    return [
        _Card(str(index), "", size if size > _OWN_MEMORY else None, taken)
        for index, (size, taken) in enumerate(found)
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
    every = [card.index for card in _query()]
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


def gpu_memory(names: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """(bytes, those that processes hold now) of each of these GPUs; None: of all usable ones.

    Only as far as the driver says: those of a MIG part are unknown, and so are those of a GPU
    named by CUDA's own number, where cards have different sizes.
    """
    every = _query()
    numbered = _numbered_by_cuda() and len({card.memory for card in every}) > 1
    return [
        (card.memory, card.taken)
        for name in (gpu_names() if names is None else names)
        for card in every
        if card.memory is not None
        and ((name == card.index and not numbered) or card.uuid.startswith(name))
    ]


def taken_memory(names: Sequence[str] | None = None) -> int:
    """The most bytes that processes hold now of any one of these GPUs; None: of all usable ones."""
    return max((taken for _, taken in gpu_memory(names)), default=0)


def _numbered_by_cuda() -> bool:
    """Whether numbers are CUDA's own, by default the fastest card first, not nvidia-smi's."""
    if not _nvidia() or os.environ.get(_ORDER) == _AS_LISTED:
        return False
    return os.environ.get("CUDA_VISIBLE_DEVICES") is not None
