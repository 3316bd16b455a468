"""For a sweep that waits for its SLURM jobs: whether they can start, and their states.

Hydra's launcher submits them through submitit, which reads their states from SLURM's accounting. A
cluster may have none, so the queue is asked instead.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from talr_cli.errors import UserError
from talr_cli.interruption import Stop
from talr_cli.sweep import slurm

log = logging.getLogger(__name__)

POLL = 10.0  # seconds between looks at the queue
_FORGOTTEN = "gone from the queue"  # a job that ended some minutes ago
# {key of hydra.launcher: option of sbatch}: what decides whether a job can ever start.
_OPTIONS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "timeout_min": "time",
    "nodes": "nodes",
    "tasks_per_node": "ntasks-per-node",
    "cpus_per_task": "cpus-per-task",
    "cpus_per_gpu": "cpus-per-gpu",
    "gpus_per_node": "gpus-per-node",
    "gpus_per_task": "gpus-per-task",
    "gres": "gres",
    "mem_per_cpu": "mem-per-cpu",
    "mem_per_gpu": "mem-per-gpu",
    "constraint": "constraint",
    "exclude": "exclude",
}
# {option of a detached sweep: the same for a sweep that waits}; longer ones first.
_WORDS = {
    "slurm.options=[--qos=NAME]": "hydra.launcher.qos=NAME",
    "slurm.gpus=0": "hydra.launcher.gpus_per_node=null",
    "slurm.gpus": "hydra.launcher.gpus_per_node",
    "slurm.cpus": "hydra.launcher.cpus_per_task",
    "slurm.memory": "hydra.launcher.mem_gb",
    "slurm.minutes": "hydra.launcher.timeout_min",
    "slurm.": "hydra.launcher.",
}


def refusal(settings: Mapping[str, Any]) -> str | None:
    """Why the cluster would never start a job with these settings of `hydra.launcher`, or None."""
    asked = {option: settings.get(key) for key, option in _OPTIONS.items()}
    memory = settings.get("mem_gb")
    asked["mem"] = None if memory is None else f"{memory}G"
    asked |= dict(settings.get("additional_parameters") or {})
    lines = [_directive(name, value) for name, value in asked.items() if value is not None]
    script = "\n".join(["#!/bin/bash", *lines, "true", ""])
    found = slurm.refusal(script, settings.get("partition"), int(settings["timeout_min"]))
    return None if found is None else typed_here(found)


def _directive(name: str, value: Any) -> str:
    """As submitit writes an option: `true` is one without a value, such as --exclusive."""
    line = f"#SBATCH --{name.replace('_', '-')}"
    return line if value is True else f"{line}={shlex.quote(str(value))}"


def typed_here(line: str) -> str:
    """The line with each option of a detached sweep replaced by that of a sweep that waits."""
    for word, own in _WORDS.items():
        line = line.replace(word, own)
    return line


class Queue:
    """Replaces submitit's watcher of jobs, and asks `squeue`.

    submitit asks it every second while there are jobs. So it also tells the user about them, and
    passes a requested stop on.
    """

    def __init__(self, name: str, stop: Stop, clock: Callable[[], float] = time.monotonic) -> None:
        """`name`: of the jobs in the queue."""
        self._name, self._stop, self._clock = name, stop, clock
        self._states: dict[str, tuple[str, str]] = {}  # of each job: its state and the reason
        self._asked_to_end: set[str] = set()
        self._looked = -POLL
        self._told = ""

    @property
    def is_empty(self) -> bool:
        """Whether no job was submitted."""
        return not self._states

    def register_job(self, job_id: str) -> None:
        """Called by submitit for each job: NUMBER, or NUMBER_TASK for a task of an array.

        submitit also registers the array itself, before its tasks.
        """
        array, _, task = job_id.partition("_")
        if task:
            self._states.pop(array, None)
        self._states.setdefault(job_id, ("PENDING", "None"))

    def get_info(self, job_id: str, mode: str = "standard") -> dict[str, str]:
        if mode != "cache":
            self._look()
        return {"State": self._states.get(job_id, (_FORGOTTEN, ""))[0]}

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        return self.get_info(job_id, mode)["State"]

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return _is_over(self.get_state(job_id, mode))

    def end(self) -> None:
        """Take all out of the queue, those that run too."""
        slurm.cancel([job for job, (state, _) in self._states.items() if not _is_over(state)])

    def _look(self) -> None:
        stops = self._stop.requested and not self._asked_to_end
        now = self._clock()
        if now - self._looked < POLL and not stops:
            return
        self._looked = now
        try:
            found = slurm.states_of(self._name)
            self._states = {job: found.get(job, (_FORGOTTEN, "")) for job in self._states}
            if self._stop.requested:
                self._end_in_time()
        except UserError as error:
            self._tell(str(error))
            return
        counts = Counter(
            state.lower() + (f" ({reason})" if state in slurm.WAITS else "")
            for state, reason in self._states.values()
        )
        self._tell(", ".join(f"{count} {words}" for words, count in sorted(counts.items())))

    def _end_in_time(self) -> None:
        """Take waiting jobs out of the queue and ask running ones to end, once."""
        left = {job: state for job, (state, _) in self._states.items() if not _is_over(state)}
        waiting = [job for job, state in left.items() if state in slurm.WAITS]
        running = [job for job in left if job not in self._asked_to_end.union(waiting)]
        self._asked_to_end |= left.keys()
        slurm.cancel(waiting)
        slurm.ask_to_end(running)

    def _tell(self, words: str) -> None:
        if words != self._told:
            log.info("SLURM: %s", words)
        self._told = words


def _is_over(state: str) -> bool:
    return state == _FORGOTTEN or state in slurm.OVER
