"""Runs jobs on this machine, several at a time: each with a GPU, or a share of the CPU cores."""

import os
import subprocess
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress

from talr_cli.interruption import Stop
from talr_cli.models.device_memory import TAKEN, WORKERS
from talr_cli.sweep.gpus import gpu_names, only_gpus, taken_memory
from talr_cli.sweep.jobs import EndedJob, Job

POLL = 0.2  # seconds between checks of the processes
GRACE = 3.0  # seconds between terminating and killing a process


class Local:
    """A Launcher that runs `workers` jobs at a time."""

    queued = False

    def __init__(self, workers: int, device: str) -> None:
        self._free = [_environment(number, workers, device) for number in range(workers)]

    def submit(self, jobs: Iterable[Job], stop: Stop) -> Generator[EndedJob, None, None]:
        waiting = iter(jobs)
        running: dict[subprocess.Popen[bytes], tuple[Job, dict[str, str], float]] = {}
        stopping = False
        try:
            while True:
                while self._free and (job := next(waiting, None)) is not None:
                    environment = self._free.pop(0)
                    running[job.start(environment)] = (job, environment, time.monotonic())
                if not running:
                    return
                if stop.requested and not stopping:
                    stopping = True
                    for process in running:
                        process.terminate()
                ended = [process for process in running if process.poll() is not None]
                for process in ended:
                    job, environment, started = running.pop(process)
                    self._free.append(environment)
                    yield EndedJob(job, process.returncode, time.monotonic() - started)
                if not ended:
                    time.sleep(POLL)
        finally:
            terminate(list(running))


def terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate processes, and kill those that have not ended after GRACE seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.wait()


def runs_per_gpu(workers: int, device: str) -> int:
    """How many runs share a GPU at most; without GPUs, the machine."""
    gpus = [] if device == "cpu" else gpu_names()
    return -(-workers // max(1, len(gpus)))


def _environment(number: int, workers: int, device: str) -> dict[str, str]:
    """The environment variables of worker `number`: its GPUs, or its share of the cores."""
    gpus = [] if device == "cpu" else gpu_names()
    if gpus:
        # A run with distributed=ddp takes all of the worker's share.
        share = gpus[number::workers] or [gpus[number % len(gpus)]]
        together = runs_per_gpu(workers, device)
        variables = {**only_gpus(share), WORKERS: str(together)}
        if together > 1:
            # Else the first run would take its part of the card out of the parts of the others.
            variables[TAKEN] = str(taken_memory(share))
        return variables
    if workers == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cpu_cores() // workers)), WORKERS: str(workers)}


def cpu_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
