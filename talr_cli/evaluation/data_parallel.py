"""Divides the rows that a model has to answer among the ranks; rank 0 does everything else.

Rank 0 evaluates as in a single process. Only when the model has to answer does it order the other
ranks to answer their share. So tasks, scorers, sandboxed programs and results do not depend on how
many ranks there are. Answers differ only by rounding, as batches are padded differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli import ranks
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.memory import explain_out_of_memory
from talr_cli.models.config import ModelConfig
from talr_cli.models.device_memory import release_memory
from talr_cli.models.sources import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (model, renderer, rows) -> an answer to each row. It is pickled for other processes, so it has to
# be a function at the top level of a module, or a functools.partial of one.
Work = Callable[[Any, Renderer, Sequence[Any]], list[Any]]
FREE = "free"  # the order to free the memory of the other ranks' GPUs

# (work, model, renderer, rows) -> an answer to each row: runs the work, in one process or several.
Distribute = Callable[[Work, Any, Renderer, Sequence[Any]], list[Any]]


def in_this_process(work: Work, model: Any, renderer: Renderer, rows: Sequence[Any]) -> list[Any]:
    """A `Distribute` that does all of the work in this process."""
    return work(model, renderer, rows)


@dataclass(frozen=True)
class Order:
    """What the other ranks need to answer their share: the checkpoint, the work and all rows."""

    source: ModelSource
    model_config: ModelConfig
    renderer: Renderer
    work: Work
    rows: Sequence[Any]


@dataclass(frozen=True)
class AllRanks:
    """A `Distribute` over all ranks, for rank 0; `source` is where the others load the model."""

    source: ModelSource
    model_config: ModelConfig

    def __call__(
        self, work: Work, model: Any, renderer: Renderer, rows: Sequence[Any]
    ) -> list[Any]:
        return _answer_share(
            ranks.broadcast(Order(self.source, self.model_config, renderer, work, rows)), model
        )


def free_other_ranks() -> None:
    """Have the other ranks free their models, for another process that needs the GPUs."""
    ranks.broadcast(FREE)


class Follower:
    """Carries out the orders, on all ranks but 0; loads the model with the first order for it."""

    def __init__(self, load: Callable[[ModelSource, ModelConfig], PreTrainedModel]) -> None:
        self._load = load
        self._source: ModelSource | None = None
        self._model: Any = None

    def answer(self, order: Order | str) -> None:
        """Answer this rank's share of an order, or free the model."""
        if isinstance(order, str):
            self._source = self._model = None
            release_memory()
            return
        if order.source != self._source:
            self._model = None
            release_memory()
            self._model = self._load(order.source, order.model_config)
            self._source = order.source
        with explain_out_of_memory(
            f"answering on process {ranks.rank()}",
            self._model.device.type,
            "a domain.max_new_tokens or suite.max_length below the present one",
        ):
            _answer_share(order, self._model)


def _answer_share(order: Order, model: Any) -> list[Any]:
    """Answer this rank's share of the rows; gives the answers to all. All ranks must call."""
    count = ranks.world_size()
    own = order.work(model, order.renderer, order.rows[ranks.rank() :: count])
    gathered = iter(ranks.gather(own))
    answers: list[Any] = [None] * len(order.rows)
    for rank in range(count):
        for row in range(rank, len(order.rows), count):
            answers[row] = next(gathered)
    return answers
