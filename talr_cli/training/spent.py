"""Measures the time, tokens and memory of a training, across interruptions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from talr_cli.models.device_memory import peak_memory_gib


@dataclass(frozen=True)
class Spent:
    """What all processes have spent from the first step to the one reached.

    Steps that were lost in an interruption and repeated count once.
    """

    seconds: float = 0.0
    input_tokens: int = 0
    peak_memory_gib: float = 0.0  # of the process with the most


class Meter:
    """Measures what these processes spend, and adds what was spent before an interruption."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._before = Spent()
        self._started = time.perf_counter()
        self.input_tokens = 0  # of this rank

    def start(self) -> None:
        """To be called when the training begins or resumes."""
        if self._accelerator.device.type == "cuda":
            # A notebook's process may have trained before.
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time within this context does not count."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def restore(self, before: Spent) -> None:
        """Take over what a checkpoint says was spent before."""
        self._before = before

    def read(self) -> Spent:
        """What was spent so far. All ranks must call."""
        accelerator, before = self._accelerator, self._before
        here = [self.input_tokens, peak_memory_gib(accelerator.device.type)]
        # float32 is not exact for more than 2^24 tokens, and Apple's GPUs have no float64.
        device = accelerator.device if accelerator.num_processes > 1 else "cpu"
        ranks = torch.tensor([here], dtype=torch.float64, device=device)
        tokens, memory = accelerator.gather(ranks).T
        return Spent(
            before.seconds + time.perf_counter() - self._started,
            before.input_tokens + int(tokens.sum()),
            max(before.peak_memory_gib, float(memory.max())),
        )
