"""The processes (ranks) of one run: started, connected, and let go before the evaluation.

Each rank runs `talr train` itself, whether it was started here, by torchrun or by `accelerate
launch`. Rank 0 owns the run: it alone locks, writes and tracks. The others prepare the same run,
hear whether there is anything to train, train, and end. Knows nothing about models or data.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# A rank that dies takes the others along at once; this is for one that downloads a large model.
PATIENCE = timedelta(hours=3)
STOPPING_SECONDS = 120  # to finish a step and write a checkpoint
_SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")

log = logging.getLogger(__name__)


def world_size() -> int:
    """How many ranks train this run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is rank 0, or the only process."""
    return int(os.environ.get("RANK", "0")) == 0


def is_sharded(config: DictConfig) -> bool:
    """Whether the ranks split the model up between them."""
    return world_size() > 1 and config.distributed.strategy == "fsdp2"


def missing_ranks(config: DictConfig) -> int:
    """How many processes this run needs that nobody has started yet; 0 to go on in this one."""
    wanted = config.distributed.processes
    if world_size() > 1 or wanted == 1:
        return 0
    import torch

    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    if wanted is None and gpus == 0:
        raise UserError(
            "distributed.processes=null is one for each GPU, and there is none: "
            "type distributed.processes=N"
        )
    if wanted is not None and wanted > gpus > 0:
        raise UserError(f"distributed.processes={wanted}, but {gpus} GPUs are visible")
    wanted = wanted or gpus
    return wanted if wanted > 1 else 0


def start(arguments: Sequence[str], processes: int) -> None:
    """Run `talr train` with these arguments as so many ranks on this machine, to their end.

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
    command = (sys.executable, "-m", "talr_cli.cli", "train", *arguments)
    try:
        elastic_launch(launch, command[0])(*command[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode) from None
    except SignalException:
        raise SystemExit(130) from None


def per_rank(config: DictConfig, ranks: int) -> tuple[int, int]:
    """(sequences per forward pass of a rank, forward passes per optimizer step).

    Raises:
        UserError: The batch cannot be cut up so.
    """
    batch, micro = config.trainer.batch_size, config.trainer.micro_batch_size
    micro = micro or max(1, batch // ranks)
    if batch % (ranks * micro):
        of_each = f" x trainer.micro_batch_size={micro}" if config.trainer.micro_batch_size else ""
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
            logging.getLogger("talr_cli").setLevel(logging.ERROR)


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
    if world_size() > 1:
        from accelerate.utils import gather_object

        if len(set(gather_object([value]))) > 1:
            raise UserError(f"the processes of this run differ in {what}: {value} and others")


def shall_train(decision: bool = False) -> bool:
    """Rank 0's `decision` whether there is something to train. All ranks must call."""
    if world_size() == 1:
        return decision
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([decision])[0]


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
    """The ranks part: from here on this is a process of its own. All ranks must call."""
    if world_size() == 1:
        return
    import torch
    from accelerate.state import AcceleratorState

    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    # lm-eval, among others, would wait for the ranks that these name.
    for name in _SET_BY_LAUNCHERS:
        os.environ.pop(name, None)
