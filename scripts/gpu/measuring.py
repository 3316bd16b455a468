"""Measurements and where they go: one line of JSON each, written as soon as it is known."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AGAIN = 75  # the exit code of a section whose process can compute no more, and says why in a line
ENDED = "ended"  # the name of the line that says that a section has measured all that was asked


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        work: A folder for what nobody reads afterwards.
        small: Sizes at which the script itself is tried out, on a CPU.
        methods: Of `reference` and `numerics`.
        model: A checkpoint or the name of a model config for `study`; None: a random model.
    """

    work: Path
    device: str
    small: bool = False
    methods: tuple[str, ...] = ()
    model: str | None = None


class Lines:
    """The measurements of one section in OUT/lines.jsonl, beside those of the others."""

    def __init__(self, out: Path, work: Path, section: str) -> None:
        self.file, self.section = out / "lines.jsonl", section
        self._under_way = work / f"{section}.now"  # its text: the measurement that has begun

    def read(self) -> list[dict[str, Any]]:
        """Of all sections."""
        return [line for line in self._all() if line["name"] != ENDED]

    def _all(self) -> list[dict[str, Any]]:
        """A line that was cut where a process was killed is none."""
        if not self.file.exists():
            return []
        found = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def ended(self, asked: str) -> bool:
        """Whether the section has measured all that was asked: it need not be started to see it."""
        wanted = (self.section, ENDED, asked)
        return any((one["section"], one["name"], one.get("asked")) == wanted for one in self._all())

    def has(self, name: str) -> bool:
        """Whether a process before this one has measured it."""
        return any((line["section"], line["name"]) == (self.section, name) for line in self.read())

    def add(self, name: str, **values: Any) -> None:
        line = json.dumps({"section": self.section, "name": name, **values}, default=str)
        cut = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + line + "\n")
        print(line, flush=True)

    def measure(self, name: str, work: Callable[[], dict[str, Any]], again: bool = False) -> None:
        """Add what `work` finds, or its error; nothing where a process before this one has it.

        Args:
            again: Whether to work even then, for what is left beside the line.
        """
        if self.has(name):
            if again:
                work()
            return
        started = time.monotonic()
        self._under_way.write_text(name, encoding="utf-8")
        lost = False
        try:
            values = work()
        except Exception as error:  # the other measurements go on
            traceback.print_exc()
            values = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            lost = "CUDA error" in str(error)
        lost = lost or ("error" in values and not _computes())
        self.add(name, **values, took=round(time.monotonic() - started, 1))
        self._under_way.unlink()
        if lost:
            sys.exit(AGAIN)

    def start(self) -> None:
        """A process begins: it is at nothing yet."""
        self._under_way.unlink(missing_ok=True)

    def end(self, asked: str) -> None:
        """The section has measured all that was asked."""
        self.add(ENDED, asked=asked)

    def died(self, how: str) -> None:
        """A process has ended in the middle: what it was at is not tried again."""
        there = self._under_way.exists()
        name = self._under_way.read_text(encoding="utf-8") if there else "before it measured"
        self.add(name, error=f"the process {how}")
        self._under_way.unlink(missing_ok=True)


def _computes() -> bool:
    """Whether the GPU still takes work of this process: after some errors it takes none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def seconds_of(work: Callable[[], Any], device: str, times: int = 12) -> float:
    """The median of several calls, after three that warm up."""
    taken = []
    for _ in range(times + 3):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def wait(device: str) -> None:
    """For all that the GPU was given to do."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def forget(device: str) -> None:
    """Give back memory, and begin to look for its peak from here."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str, reserved: bool = False) -> float | None:
    """Of the GPU's memory since `forget`; not known on a CPU.

    Args:
        reserved: With what lies unused between tensors.
    """
    import torch

    if device != "cuda":
        return None
    most = torch.cuda.max_memory_reserved if reserved else torch.cuda.max_memory_allocated
    return round(most() / 2**30, 2)
