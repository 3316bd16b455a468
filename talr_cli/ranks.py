"""The processes (ranks) of one run: started, connected, and let go at the end.

Each rank runs `talr train` or `talr eval` itself, whether it was started here, by torchrun or by
`accelerate launch`. Rank 0 owns the run: it alone locks, writes and tracks. The others hear from it
what there is to do. Knows nothing about models or data.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import value

DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE = "auto: a CUDA GPU, or mps on an Apple machine, where there is one; else the CPU"
# A rank that dies takes the others along at once; this is for one that downloads a large model.
PATIENCE = timedelta(hours=3)
FAREWELL_SECONDS = 10
STOPPING_SECONDS = 120  # to finish a step and write a checkpoint

log = logging.getLogger(__name__)


@dataclass
class DistributedConfig:
    """The processes of one run, each with a GPU of its own. Changes no result."""

    strategy: str = value(
        "ddp: each process holds the whole model; fsdp2: the model is split between them",
        choices=("ddp", "fsdp2"),
    )
    processes: int | None = value(
        "how many processes; null: one for each visible GPU", None, at_least=1
    )


def world_size() -> int:
    """How many ranks make this run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is rank 0, or the only process."""
    return rank() == 0


def is_sharded(distributed: DistributedConfig) -> bool:
    """Whether the ranks split the model up between them."""
    return world_size() > 1 and distributed.strategy == "fsdp2"


def missing_ranks(distributed: DistributedConfig, device: str) -> int:
    """How many processes this run needs that nobody has started yet; 0 to go on in this one."""
    wanted = distributed.processes
    if world_size() > 1 or wanted == 1:
        return 0
    import torch

    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if wanted is None and gpus == 0:
        raise UserError(
            "distributed.processes=null is one for each GPU, and there is none: "
            "type distributed.processes=N"
        )
    if wanted is not None and wanted > gpus > 0:
        raise UserError(f"distributed.processes={wanted}, but {gpus} GPUs are visible")
    wanted = wanted or gpus
    return wanted if wanted > 1 else 0


def start(command: str, arguments: Sequence[str], processes: int) -> None:
    """Run `talr COMMAND` with these arguments as so many ranks on this machine, to their end.

    Raises:
        SystemExit: A rank failed or was stopped, and has said why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for noisy in ("torch.distributed", "torch.distributed.elastic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=STOPPING_SECONDS,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "talr_cli.cli", command, *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode) from None
    except SignalException:
        raise SystemExit(130) from None


def per_rank(batch: int, micro_batch: int | None, ranks: int) -> tuple[int, int]:
    """(sequences per forward pass of a rank, forward passes per optimizer step).

    Args:
        batch: Sequences per optimizer step, over all ranks.
        micro_batch: What the first of the results is to be; None: as many as there are.

    Raises:
        UserError: The batch cannot be cut up so.
    """
    micro = micro_batch or max(1, batch // ranks)
    if batch % (ranks * micro):
        of_each = f" x trainer.micro_batch_size={micro}" if micro_batch else ""
        raise UserError(
            f"trainer.batch_size={batch}, the sequences of an optimizer step over all processes, "
            f"is not a multiple of {ranks} processes{of_each}"
        )
    return micro, batch // (ranks * micro)


def connect(device: str) -> None:
    """Join the other ranks and take this one's GPU; nothing to do for the only process."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=PATIENCE)
        if not is_main():
            for name in ("talr_cli", "lm_eval"):
                logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def ended_by_main() -> Iterator[None]:
    """Inside, the other ranks end without a word when rank 0 has ended: it has said why."""
    if is_main():
        yield
        return
    import torch

    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        time.sleep(FAREWELL_SECONDS)  # rank 0 is to end first, so that its exit code counts
        raise SystemExit(1) from None


@contextmanager
def one_per_node_first() -> Iterator[None]:
    """What is inside is done by one rank of each machine, then by the others, who find it done."""
    if world_size() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().local_main_process_first():
        yield


def agree(value: Any, what: str) -> None:
    """Refuse to go on unless `value` is the same on all ranks. All ranks must call."""
    if len(set(gather([value]))) > 1:
        raise UserError(f"the processes of this run differ in {what}: {value} and others")


def broadcast(value: Any = None) -> Any:
    """Rank 0's `value`, on every rank. All ranks must call."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def orders() -> Iterator[Any]:
    """What rank 0 broadcasts, up to None: for the other ranks, between what all of them do."""
    return iter(broadcast, None)


def gather(values: list[Any]) -> list[Any]:
    """The values of all ranks, those of rank 0 first. All ranks must call."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    return gather_object(values)


def any_of(flag: bool) -> bool:
    """Whether it is true on any rank. All ranks must call."""
    if world_size() == 1:
        return flag
    import torch
    from accelerate import PartialState

    count = torch.tensor(int(flag), device=PartialState().device)
    torch.distributed.all_reduce(count)
    return bool(count)


def leave() -> None:
    """The end of what the ranks do together, of the others' `orders` too. All ranks must call."""
    if world_size() > 1:
        import torch

        if is_main():
            broadcast(None)
        torch.distributed.destroy_process_group()
