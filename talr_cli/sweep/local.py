"""Jobs on this machine, several at a time: one GPU each, or a share of the CPU's cores."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Iterator

from talr_cli.sweep.jobs import Ended, Job

POLL = 0.2  # seconds


class Local:
    """`workers` jobs at a time."""

    def __init__(self, workers: int, device: str) -> None:
        self.workers = workers
        self._free = [_environment(number, workers, device) for number in range(workers)]

    def submit(self, jobs: Iterable[Job]) -> Iterator[Ended]:
        waiting = iter(jobs)
        running: dict[subprocess.Popen[bytes], tuple[Job, dict[str, str], float]] = {}
        more = True
        while more or running:
            while more and self._free:
                job = next(waiting, None)
                if job is None:
                    more = False
                else:
                    environment = self._free.pop(0)
                    running[job.start(environment)] = (job, environment, time.monotonic())
            for process in [one for one in running if one.poll() is not None]:
                job, environment, started = running.pop(process)
                self._free.append(environment)
                yield Ended(job, process.returncode, time.monotonic() - started)
                break
            else:
                time.sleep(POLL)


def _environment(number: int, workers: int, device: str) -> dict[str, str]:
    """What sets the worker `number` apart from the others."""
    gpus = [] if device == "cpu" else _gpus()
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    if workers == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}


def _gpus() -> list[str]:
    """The GPUs that may be used, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [str(index) for index, _ in enumerate(listing.stdout.splitlines())]
