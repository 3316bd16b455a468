"""Each rank of a run answers a share of the rows; all else is done by rank 0 alone.

Rank 0 evaluates as it does in a single process. Where the model has to answer, it orders the other
ranks to take their share. So tasks, scorers, the programs of code tasks and results do not know
how many ranks there are. Answers depend on it only by rounding, as batches are padded otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli import ranks
from talr_cli.data.rendering import Renderer
from talr_cli.models.config import ModelConfig
from talr_cli.models.device_memory import give_back
from talr_cli.models.sources import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (model, renderer, rows) -> an answer to each row. It is sent to other processes, so it has to be a
# function of a module, or a functools.partial of one.
Work = Callable[[Any, Renderer, Sequence[Any]], list[Any]]
FREE = "free"  # what the first rank orders the others to do with the memory of their GPUs

# (work, model, renderer, rows) -> an answer to each row.
Share = Callable[[Work, Any, Renderer, Sequence[Any]], list[Any]]


def alone(work: Work, model: Any, renderer: Renderer, rows: Sequence[Any]) -> list[Any]:
    """All of the work in this process."""
    return work(model, renderer, rows)


@dataclass(frozen=True)
class Order:
    """What the other ranks need to take their share: the checkpoint, the work, all rows."""

    source: ModelSource
    model_config: ModelConfig
    renderer: Renderer
    work: Work
    rows: Sequence[Any]


@dataclass(frozen=True)
class AllRanks:
    """Rank 0's side: a `Share` of the model in `source` over all ranks (or the only process)."""

    source: ModelSource
    model_config: ModelConfig

    def __call__(
        self, work: Work, model: Any, renderer: Renderer, rows: Sequence[Any]
    ) -> list[Any]:
        return _take_part(
            ranks.broadcast(Order(self.source, self.model_config, renderer, work, rows)), model
        )


def free_the_others() -> None:
    """The other ranks let go of their models, for another process that needs the GPUs."""
    ranks.broadcast(FREE)


class Follower:
    """The other ranks' side: carries out orders, with a model that the first order has it load."""

    def __init__(self, load: Callable[[ModelSource, ModelConfig], PreTrainedModel]) -> None:
        self._load = load
        self._source: ModelSource | None = None
        self._model: Any = None

    def answer(self, order: Order | str) -> None:
        if isinstance(order, str):
            self._source = self._model = None
            give_back()
            return
        if order.source != self._source:
            self._model = None
            give_back()
            self._model = self._load(order.source, order.model_config)
            self._source = order.source
        _take_part(order, self._model)


def _take_part(order: Order, model: Any) -> list[Any]:
    """The answers to all rows, in their order. All ranks must call."""
    count = ranks.world_size()
    own = order.work(model, order.renderer, order.rows[ranks.rank() :: count])
    gathered = iter(ranks.gather(own))
    answers: list[Any] = [None] * len(order.rows)
    for rank in range(count):
        for row in range(rank, len(order.rows), count):
            answers[row] = next(gathered)
    return answers
