"""The processes (ranks) of a run: starts, connects and disconnects them.

Each rank runs `talr train` or `talr eval`, whether it was started here, by torchrun or by
`accelerate launch`. Rank 0 owns the run: only it locks, writes and tracks, and it orders the others
what to do. Knows nothing about models or data.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from talr_cli.errors import UserError, reason_of
from talr_cli.fields import value
from talr_cli.interruption import killed_by

DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE = "auto: a CUDA GPU, or mps on an Apple machine, where there is one; else the CPU"
# How long ranks wait for each other within a step, as one may still load a large model. If a rank
# dies, the others end at once anyway.
TIMEOUT = timedelta(hours=3)
# How long they wait where one of them has work of its own, such as scoring.
PATIENCE = timedelta(days=365)
CONNECTING = timedelta(minutes=5)
EXIT_DELAY = 10
SHUTDOWN_TIMEOUT = 120  # to finish a step and write a checkpoint

log = logging.getLogger(__name__)

# The group in which ranks wait and exchange objects: over TCP (gloo), also where gradients go over
# NCCL, by which a wait keeps the GPU busy. None: that of the gradients.
_waiting: Any = None


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
    """The number of ranks of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this rank, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is rank 0, or the only process."""
    return rank() == 0


def is_sharded(distributed: DistributedConfig) -> bool:
    """Whether the model is sharded among the ranks."""
    return world_size() > 1 and distributed.strategy == "fsdp2"


def missing_ranks(distributed: DistributedConfig, device: str) -> int:
    """How many processes have to be started for this run; 0 if this process can go on.

    Raises:
        UserError: There are fewer GPUs than processes, or none for which to start any.
    """
    wanted = distributed.processes
    if world_size() > 1 or wanted == 1:
        return 0
    _check_device(device)
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


def start_ranks(command: str, arguments: Sequence[str], processes: int) -> None:
    """Run `talr COMMAND` with these arguments as ranks on this machine, and wait for them.

    Raises:
        SystemExit: A rank failed or was stopped, and has printed why.
        UserError: A rank was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for noisy in ("torch.distributed", "torch.distributed.elastic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        # The ranks print where this process does, and torch would leave an empty folder in /tmp.
        logs_specs=DefaultLogsSpecs(os.devnull),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "talr_cli.cli", command, *arguments)
    except ChildFailedError as error:
        which, code = _first_to_end(error.failures)
        if code < 0:
            raise UserError(
                f"rank {which} was {killed_by(-code)}: type the same command to go on"
            ) from None
        raise SystemExit(code) from None
    except SignalException:
        raise SystemExit(130) from None


def _first_to_end(failures: Mapping[int, Any]) -> tuple[int, int]:
    """(rank, exit code) of the rank by whose end the others ended.

    Args:
        failures: torch's ProcessFailure of that rank, and of those that it has then told to end.
    """
    first = min(one.timestamp for one in failures.values())
    codes = {rank: one.exitcode for rank, one in failures.items() if one.timestamp <= first + 1}
    unasked = {rank: code for rank, code in codes.items() if code not in (130, -signal.SIGTERM)}
    killed = {rank: code for rank, code in unasked.items() if code < 0}
    # Rank 0 may have ended as it lost another, which is then the later one.
    return max((killed or unasked or codes).items())


def per_rank(batch: int, micro_batch: int | None, ranks: int) -> tuple[int, int]:
    """(sequences per forward pass of a rank, forward passes per optimizer step).

    Args:
        batch: Sequences per optimizer step, over all ranks.
        micro_batch: Sequences per forward pass of a rank; None: all of its share.

    Raises:
        UserError: The batch cannot be divided like that.
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
    """Connect to the other ranks and select this rank's GPU; a single process does nothing.

    Raises:
        UserError: The ranks cannot use this device together, or do not reach each other.
    """
    if world_size() == 1:
        return
    _check_device(device)
    import torch
    from accelerate import PartialState

    try:
        # Left to itself, accelerate connects nothing where `auto` turns out to be a CPU.
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=TIMEOUT)
    except NotImplementedError as error:  # of cards that need a newer driver or other settings
        raise UserError(f"distributed: {reason_of(error)}") from error
    _connect_waiting()
    if not is_main():
        for name in ("talr_cli", "lm_eval"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _connect_waiting() -> None:
    """Make the group in which ranks wait."""
    import torch
    from torch.distributed.distributed_c10d import _set_pg_timeout

    global _waiting
    try:
        _waiting = torch.distributed.new_group(backend="gloo", timeout=CONNECTING)
    except RuntimeError as error:
        raise UserError(
            f"the processes do not reach each other over TCP ({reason_of(error)}): "
            "GLOO_SOCKET_IFNAME=NAME chooses the network of their machines (`ip addr` lists them)"
        ) from error
    _set_pg_timeout(PATIENCE, _waiting)


def _check_device(device: str) -> None:
    """Refuse several ranks on an Apple GPU."""
    import torch

    is_mps = device == "mps" or (
        device == "auto" and not torch.cuda.is_available() and torch.backends.mps.is_available()
    )
    if is_mps:
        raise UserError("an Apple GPU (mps) takes one process: leave out distributed.processes")


@contextmanager
def exit_with_others() -> Iterator[None]:
    """Let a rank exit without a traceback if another one has ended, for which there is a reason.

    Raises:
        UserError: On rank 0.
        SystemExit: On the others. If rank 0 has ended, it has printed the reason.
    """
    try:
        yield
    except RuntimeError as error:
        if not has_lost_another(error):
            raise
        if is_main():
            raise UserError("another rank of this run has ended") from None
        time.sleep(EXIT_DELAY)  # rank 0 must exit first, so that its exit code counts
        raise SystemExit(1) from None


def has_lost_another(error: BaseException) -> bool:
    """Whether an exception says that another rank has ended."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@contextmanager
def one_per_node_first() -> Iterator[None]:
    """Let one rank of each machine do something first; the others then find it done."""
    is_first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not is_first:
        wait_for_all()
    yield
    if is_first:
        wait_for_all()


def wait_for_all() -> None:
    """Wait until all ranks are here, however long that takes. All ranks must call."""
    if world_size() > 1:
        import torch

        torch.distributed.barrier(_waiting)


def require_agreement(value: Any, what: str) -> None:
    """Raise UserError unless `value` is the same on all ranks. All ranks must call."""
    if len(set(gather([value]))) > 1:
        raise UserError(f"the processes of this run differ in {what}: {value} and others")


def broadcast(value: Any = None) -> Any:
    """Rank 0's `value`, on every rank, however long it takes. All ranks must call."""
    if world_size() == 1:
        return value
    import torch

    sent = [value]
    torch.distributed.broadcast_object_list(sent, src=0, group=_waiting)
    return sent[0]


def orders() -> Iterator[Any]:
    """On the other ranks: the objects that rank 0 broadcasts, until None."""
    return iter(broadcast, None)


def gather(values: list[Any]) -> list[Any]:
    """The values of all ranks, in the order of ranks. All ranks must call."""
    if world_size() == 1:
        return values
    import torch

    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, values, group=_waiting)
    return [one for some in found for one in some]


def any_of(flag: bool) -> bool:
    """Whether `flag` is true on any rank. All ranks must call."""
    return any(gather([flag]))


def disconnect() -> None:
    """Disconnect, which also ends the `orders` of the other ranks. All ranks must call."""
    global _waiting
    if world_size() > 1:
        import torch

        if is_main():
            broadcast(None)
        torch.distributed.destroy_process_group()
        _waiting = None
