"""The micro-batches of one rank. Together, all ranks see exactly the batches of a single process.

accelerate fills up an epoch's last batch with rows from its beginning, which would be trained on
twice. Here it is filled up with rows that have no target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader, Dataset, Sampler

from talr_cli.data.rendering import IGNORED


class RankBatches(Sampler[list[int | None]]):
    """The micro-batches of a rank: lists of `size` row indices, None for a row without targets."""

    def __init__(self, rows: int, size: int, rank: int, ranks: int, seed: int) -> None:
        self._size, self._rank, self._at_once = size, rank, size * ranks
        self._steps = math.ceil(rows / self._at_once)
        # The sampler that accelerate uses in a single process.
        self._order = SeedableRandomSampler(range(rows), data_seed=seed)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int | None]]:
        order: list[int | None] = [*self._order]
        order += [None] * (self._steps * self._at_once - len(order))
        for start in range(self._rank * self._size, len(order), self._at_once):
            yield order[start : start + self._size]

    def set_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)


class RankLoader(DataLoader):
    """Loads the micro-batches of `RankBatches`; the trainer calls `set_epoch`."""

    def __init__(
        self, rows: Sequence[dict[str, Any]], batches: RankBatches, collate: Callable, **kwargs: Any
    ) -> None:
        super().__init__(_WithFiller(rows), batch_sampler=batches, collate_fn=collate, **kwargs)
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)


class _WithFiller(Dataset):
    """The rows by their index; None gives a row without targets."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows
        self._filler = {**rows[0], "input_ids": rows[0]["input_ids"][:2], "labels": [IGNORED] * 2}
        self._filler |= {name: [] for name in ("replay", "base_log_probs") if name in rows[0]}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | None) -> dict[str, Any]:
        return self._filler if index is None else self._rows[index]
