"""For a sweep that waits for its SLURM jobs: whether they can start, and their states.

Hydra's launcher submits them through submitit, which reads their states from SLURM's accounting.
Not every cluster has accounting, so the queue is read instead.
"""

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

POLL = 10.0  # seconds between requests to the queue
_GONE = "gone from the queue"  # a job that ended some minutes ago
# Values of hydra.launcher that decide whether a job can ever start, and are options of sbatch.
_OPTIONS = (
    *("partition", "account", "qos", "nodes", "cpus_per_task", "cpus_per_gpu", "gpus_per_node"),
    *("gpus_per_task", "gres", "mem_per_cpu", "mem_per_gpu", "constraint", "exclude"),
)
# {option of a detached sweep: that of a sweep that waits}; longer ones first.
_LAUNCHER_OPTIONS = {
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
    options = {name: settings.get(name) for name in _OPTIONS}
    options |= {"time": settings["timeout_min"], "ntasks-per-node": settings.get("tasks_per_node")}
    memory = settings.get("mem_gb")
    options["mem"] = None if memory is None else f"{memory}G"
    options |= dict(settings.get("additional_parameters") or {})
    lines = [_directive(name, value) for name, value in options.items() if value is not None]
    script = "\n".join(["#!/bin/bash", *lines, "true", ""])
    reason = slurm.refusal(script, settings.get("partition"), int(settings["timeout_min"]))
    return None if reason is None else as_launcher_options(reason)


def _directive(name: str, value: Any) -> str:
    """An option as submitit writes it: with `true` it has no value, such as --exclusive."""
    line = f"#SBATCH --{name.replace('_', '-')}"
    return line if value is True else f"{line}={shlex.quote(str(value))}"


def as_launcher_options(message: str) -> str:
    """Replace each option of a detached sweep in a message by that of a sweep that waits."""
    for detached, waiting in _LAUNCHER_OPTIONS.items():
        message = message.replace(detached, waiting)
    return message


class SlurmWatcher:
    """Replaces submitit's watcher of jobs by one that calls `squeue`.

    submitit calls it every second while there are jobs, so it also logs their states and passes on
    a requested stop.
    """

    def __init__(self, name: str, stop: Stop, clock: Callable[[], float] = time.monotonic) -> None:
        """`name`: the name of the jobs in the queue."""
        self._name, self._stop, self._clock = name, stop, clock
        self._states: dict[str, tuple[str, str]] = {}  # {job: (state, reason)}
        self._stopping: set[str] = set()
        self._polled_at = -POLL
        self._logged = ""

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
            self._poll()
        return {"State": self._states.get(job_id, (_GONE, ""))[0]}

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        return self.get_info(job_id, mode)["State"]

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return _has_ended(self.get_state(job_id, mode))

    def cancel_all(self) -> None:
        """Remove all jobs from the queue, including running ones."""
        slurm.cancel([job for job, (state, _) in self._states.items() if not _has_ended(state)])

    def _poll(self) -> None:
        must_stop = self._stop.requested and not self._stopping
        now = self._clock()
        if now - self._polled_at < POLL and not must_stop:
            return
        self._polled_at = now
        try:
            found = slurm.job_states(self._name)
            self._states = {job: found.get(job, (_GONE, "")) for job in self._states}
            if self._stop.requested:
                self._pass_stop_on()
        except UserError as error:
            self._log_change(str(error))
            return
        counts = Counter(
            state.lower() + (f" ({reason})" if state in slurm.WAITING else "")
            for state, reason in self._states.values()
        )
        self._log_change(", ".join(f"{count} {words}" for words, count in sorted(counts.items())))

    def _pass_stop_on(self) -> None:
        """Remove waiting jobs from the queue and ask running ones to stop, once."""
        left = {job: state for job, (state, _) in self._states.items() if not _has_ended(state)}
        waiting = [job for job, state in left.items() if state in slurm.WAITING]
        running = [job for job in left if job not in self._stopping.union(waiting)]
        self._stopping |= left.keys()
        slurm.cancel(waiting)
        slurm.request_stop(running)

    def _log_change(self, text: str) -> None:
        if text != self._logged:
            log.info("SLURM: %s", text)
        self._logged = text


def _has_ended(state: str) -> bool:
    return state == _GONE or state in slurm.ENDED
