"""Keeps measurements: one line of JSON each, written at once."""

import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AGAIN = 75  # exit code of a section that has lost the GPU and wants a new process
ENDED = "ended"  # name of the line that says that a section has measured all that was asked for


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        work: A folder for files that nobody reads afterwards.
        small: Use tiny sizes, to try out the script itself on a CPU.
        methods: The methods of `reference`, `numerics` and `steps`; empty: all.
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
        """The measurements of all sections."""
        return [line for line in self._all() if line["name"] != ENDED]

    def _all(self) -> list[dict[str, Any]]:
        """All lines but those that were cut when a process was killed."""
        if not self.file.exists():
            return []
        found = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def ended(self, asked: str) -> bool:
        """Whether the section has measured all that was asked for."""
        wanted = (self.section, ENDED, asked)
        return any((one["section"], one["name"], one.get("asked")) == wanted for one in self._all())

    def has(self, name: str) -> bool:
        """Whether this was measured, perhaps by an earlier process."""
        return any((line["section"], line["name"]) == (self.section, name) for line in self.read())

    def add(self, name: str, **values: Any) -> None:
        line = json.dumps({"section": self.section, "name": name, **values}, default=str)
        cut = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + line + "\n")
        print(line, flush=True)

    def measure(self, name: str, work: Callable[[], dict[str, Any]], again: bool = False) -> None:
        """Add what `work` finds, or its error; nothing if it was measured before.

        Args:
            again: Call `work` even then, for the files that it makes.
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
        """A new process of the section begins, with no measurement under way."""
        self._under_way.unlink(missing_ok=True)

    def end(self, asked: str) -> None:
        """The section has measured all that was asked for."""
        self.add(ENDED, asked=asked)

    def died(self, how: str) -> bool:
        """A process has ended during a measurement, which is not tried again.

        Returns:
            Whether it was during one; else it was before.
        """
        there = self._under_way.exists()
        name = self._under_way.read_text(encoding="utf-8") if there else "before it measured"
        self.add(name, error=f"the process {how}")
        self._under_way.unlink(missing_ok=True)
        return there


def _computes() -> bool:
    """Whether the GPU still works for this process: after some errors it does not."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def seconds_of(work: Callable[[], Any], device: str, times: int = 12) -> float:
    """Median seconds of several calls, after three warm-up calls."""
    taken = []
    for _ in range(times + 3):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def wait(device: str) -> None:
    """Wait until the GPU has done its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def forget(device: str) -> None:
    """Give back memory, and measure its peak from here on."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        restart_peak(device)


def restart_peak(device: str) -> None:
    """Measure the peak from here on; what the allocator holds stays, as in a training."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def expandable_segments(wanted: bool) -> Iterator[None]:
    """Within this context, if wanted, CUDA's memory is taken in segments that can grow."""
    import torch

    if wanted:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    try:
        yield
    finally:
        if wanted:
            torch.cuda.memory._set_allocator_settings("expandable_segments:False")


def failed_allocations(device: str) -> int:
    """How often this process had no room until it had given back what it held unused."""
    import torch

    return torch.cuda.memory_stats().get("num_alloc_retries", 0) if device == "cuda" else 0


def peak_gib(device: str, reserved: bool = False) -> float | None:
    """Peak of the GPU's memory since `forget`; None on a CPU.

    Args:
        reserved: Also what the allocator holds unused.
    """
    import torch

    if device != "cuda":
        return None
    most = torch.cuda.max_memory_reserved if reserved else torch.cuda.max_memory_allocated
    return round(most() / 2**30, 2)
