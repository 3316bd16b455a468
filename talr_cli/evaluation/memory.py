"""How many rows go through the model at once, and what is done when memory runs out.

Only memory of a GPU: on a CPU the kernel ends the process, and nothing can be done in it.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Item = TypeVar("Item")

AUTO = {"cuda": 64, "cpu": 32}  # what `batch_size=auto` begins with


@dataclass
class BatchSize:
    """Rows at once; halved for good, and the work repeated, when the GPU's memory runs out."""

    now: int

    @classmethod
    def of(cls, wanted: int | str, device: str) -> BatchSize:
        """`wanted` is a number or `auto`, `device` a type such as `cuda`."""
        return cls(AUTO.get(device, AUTO["cpu"]) if wanted == "auto" else int(wanted))

    def whole(self, work: Callable[[int], Result]) -> Result:
        """`work` with as many rows at once as it is given."""
        while True:
            try:
                return work(self.now)
            except torch.OutOfMemoryError:
                if self.now == 1:
                    raise
            # Not in the handler: the exception's frames keep the tensors.
            self._halve()

    def each(self, items: Sequence[Item], work: Callable[[Sequence[Item]], None]) -> None:
        """`work` on all items, piece by piece; only the piece that failed is repeated."""
        done = 0

        def next_piece(size: int) -> int:
            piece = items[done : done + size]
            work(piece)
            return len(piece)

        while done < len(items):
            done += self.whole(next_piece)

    def _halve(self) -> None:
        log.warning("out of memory with %d rows at once: going on with %d", self.now, self.now // 2)
        self.now //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
