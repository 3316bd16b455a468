"""Starts jobs by a launcher of Hydra: on SLURM through submitit, or on a Ray cluster.

Such a launcher calls a function for each job, on the machine where it runs. The function here
starts the job's own process, as `Local` does, and returns its exit code.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from talr_cli.config import composition
from talr_cli.errors import UserError, install_command
from talr_cli.interruption import Stop
from talr_cli.sweep.jobs import INTERRUPTED, Ended, Job
from talr_cli.sweep.plan import is_finished
from talr_cli.sweep.slurm import refused
from talr_cli.sweep.waiting import Queue, refusal, typed_here

log = logging.getLogger(__name__)

# The extra of talr that installs each launcher.
_EXTRAS = {"slurm": "slurm", "submitit": "slurm", "ray": "ray"}
# SLURM tells submitit of a preemption by these; the run hears of it by the SIGTERM that follows.
_SIGNALS_OF_SUBMITIT = {signal.SIGUSR1, signal.SIGUSR2}


class HydraLauncher:
    """A launcher of Hydra, as talr's Launcher."""

    def __init__(
        self, name: str, overrides: Sequence[str], folder: Path, config_dir: Path | None
    ) -> None:
        """Args:
            name: slurm, submitit or ray.
            overrides: Those of `hydra.launcher`.
            folder: Where the launcher writes its own files.

        Raises:
            UserError: It is not installed.
        """
        self._name = name
        chosen = f"hydra/launcher=talr_{name}"
        try:
            with composition.composing("sweep", config_dir) as also:
                self._config = compose(
                    "sweep",
                    [
                        *also,
                        chosen,
                        f"hydra.sweep.dir={folder}",
                        "hydra.sweep.subdir=.",
                        *overrides,
                    ],
                    return_hydra_config=True,
                )
                loader = GlobalHydra.instance().config_loader()
                self._context = HydraContext(loader, Callbacks())
        except UserError as error:
            if "Could not load 'hydra/launcher/" not in str(error):
                raise
            raise UserError(
                f"launcher={name} is not installed: {install_command(_EXTRAS[name])}"
            ) from error

    def refusal(self) -> str | None:
        """Why no job with these settings would ever start; None if it would, or nobody can say."""
        return refusal(self._settings()) if self._name == "slurm" else None

    def submit(self, jobs: Iterable[Job], stop: Stop) -> Generator[Ended, None, None]:
        """Submit all jobs at once: the cluster decides when each runs."""
        batch = list(jobs)
        if not batch or stop.requested:
            return
        launcher = Plugins.instance().instantiate_launcher(
            self._context, _Make(batch, Path.cwd()), self._config
        )
        queue = self._watch(stop)
        numbered = [[f"+job={number}"] for number in range(len(batch))]
        try:
            answers = [one.return_value for one in launcher.launch(numbered, 0)]
        except Exception as error:  # launchers raise their own errors and those of their jobs
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if queue is not None and queue.is_empty:
                raise UserError(typed_here(str(refused("sbatch", lines)))) from error
            # One job that the cluster ended, for example for its memory, hides what the others say.
            if not stop.requested:
                log.warning("launcher: %s", " ".join(lines[:2]))
            answers = [(_code(job, stop), 0.0) for job in batch]
        except BaseException:  # Ctrl-C too: no job may be left in the queue
            if queue is not None:
                queue.end()
            raise
        for job, (code, seconds) in zip(batch, answers, strict=True):
            yield Ended(job, code, seconds)

    def _watch(self, stop: Stop) -> Queue | None:
        """What tells submitit and the user the states of SLURM's jobs."""
        if self._name != "slurm":
            return None
        import submitit

        queue = Queue(self._settings()["name"], stop)
        submitit.SlurmJob.watcher = queue
        return queue

    def _settings(self) -> dict[str, Any]:
        """Those of `hydra.launcher`."""
        return dict(self._config.hydra.launcher)


def _code(job: Job, stop: Stop) -> int:
    """The exit code of a job of which the launcher reports none, by the files of its run."""
    if is_finished(job):
        return 0
    if job.directory.read_status().state in ("failed", "diverged"):
        return 1
    return INTERRUPTED if stop.requested else -signal.SIGKILL  # goes on with the next sweep


@dataclass
class _Make:
    """The function that Hydra's launcher calls with the number of a job."""

    jobs: Sequence[Job]
    folder: Path

    def __call__(self, chosen: Any) -> tuple[int, float]:
        """(exit code, seconds) of the job's process."""
        os.chdir(self.folder)
        started = time.monotonic()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_SUBMITIT)
        try:
            process = self.jobs[chosen.job].start({})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return process.wait(), time.monotonic() - started
        except BaseException:  # Ctrl-C and a cancelled job: the run must end with this process
            process.terminate()
            process.wait()
            raise
