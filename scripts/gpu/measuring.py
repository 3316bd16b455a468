"""Measurements and where they go: one line of JSON each, written as soon as it is known."""

from __future__ import annotations

import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        small: Sizes at which the script itself is tried out, on a CPU.
        methods: Of `reference` and `numerics`.
        model: A checkpoint or the name of a model config for `study`; None: a random model.
    """

    out: Path
    device: str
    small: bool = False
    methods: tuple[str, ...] = ()
    model: str | None = None


class Lines:
    """The measurements of one section in OUT/lines.jsonl, beside those of the others."""

    def __init__(self, out: Path, section: str) -> None:
        self.file, self.section = out / "lines.jsonl", section

    def read(self) -> list[dict[str, Any]]:
        """Of all sections."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def add(self, name: str, **values: Any) -> None:
        line = json.dumps({"section": self.section, "name": name, **values}, default=str)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def measure(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Add what `work` finds, or its error; nothing where a process before this one has it."""
        if any((line["section"], line["name"]) == (self.section, name) for line in self.read()):
            return
        started = time.monotonic()
        try:
            values = work()
        except Exception as error:  # the other measurements go on
            traceback.print_exc()
            values = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        self.add(name, **values, took=round(time.monotonic() - started, 1))


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


def peak_gib(device: str) -> float | None:
    """Of the GPU's memory since `forget`; not known on a CPU."""
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None
