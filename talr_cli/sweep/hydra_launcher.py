"""Starts jobs with a launcher of Hydra: on SLURM through submitit, or on a Ray cluster.

Such a launcher calls a function for each job, on the machine where the job runs. Our function
starts the job's own process, as `Local` does, and returns its exit code.
"""

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
from talr_cli.sweep.jobs import INTERRUPTED, EndedJob, Job
from talr_cli.sweep.plan import is_finished
from talr_cli.sweep.slurm import refusal_error
from talr_cli.sweep.waiting import SlurmWatcher, as_launcher_options, refusal

log = logging.getLogger(__name__)

# The extra of talr that installs each launcher.
_EXTRAS = {"slurm": "slurm", "submitit": "slurm", "ray": "ray"}
# By these SLURM tells submitit of a preemption; the run reacts to the SIGTERM that follows.
_SIGNALS_OF_SUBMITIT = {signal.SIGUSR1, signal.SIGUSR2}


class HydraLauncher:
    """A Launcher that uses one of Hydra's."""

    queued = True

    def __init__(
        self, name: str, overrides: Sequence[str], folder: Path, config_dir: Path | None
    ) -> None:
        """Args:
            name: slurm, submitit or ray.
            overrides: Those of `hydra.launcher`.
            folder: Where Hydra's launcher writes its files.

        Raises:
            UserError: It is not installed.
        """
        self._name = name
        chosen = f"hydra/launcher=talr_{name}"
        try:
            with composition.composing("sweep", config_dir) as extra:
                lines = [*extra, chosen, f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=."]
                self._config = compose("sweep", [*lines, *overrides], return_hydra_config=True)
                loader = GlobalHydra.instance().config_loader()
                self._context = HydraContext(loader, Callbacks())
        except UserError as error:
            if "Could not load 'hydra/launcher/" not in str(error):
                raise
            raise UserError(
                f"launcher={name} is not installed: {install_command(_EXTRAS[name])}"
            ) from error

    def refusal(self) -> str | None:
        """Why jobs with these settings would never start; None if they would, or it is unknown."""
        return refusal(self._settings()) if self._name == "slurm" else None

    def submit(self, jobs: Iterable[Job], stop: Stop) -> Generator[EndedJob, None, None]:
        """Submit all jobs at once: the cluster decides when each runs."""
        batch = list(jobs)
        if not batch or stop.requested:
            return
        launcher = Plugins.instance().instantiate_launcher(
            self._context, _JobFunction(batch, Path.cwd()), self._config
        )
        queue = self._watch(stop)
        numbered = [[f"+job={number}"] for number in range(len(batch))]
        try:
            answers = [one.return_value for one in launcher.launch(numbered, 0)]
        except Exception as error:  # launchers raise their own errors and those of their jobs
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if queue is not None and queue.is_empty:
                raise UserError(as_launcher_options(str(refusal_error("sbatch", lines)))) from error
            # An error for one job, for example out of memory, hides the results of the others.
            if not stop.requested:
                log.warning("launcher: %s", " ".join(lines[:2]))
            answers = [(_exit_code_by_files(job, stop), 0.0) for job in batch]
        except BaseException:  # such as Ctrl-C: no job may be left in the queue
            if queue is not None:
                queue.cancel_all()
            raise
        for job, (code, seconds) in zip(batch, answers, strict=True):
            yield EndedJob(job, code, seconds)

    def _watch(self, stop: Stop) -> SlurmWatcher | None:
        """A watcher of the jobs' states, for submitit and the user; None for other launchers."""
        if self._name != "slurm":
            return None
        import submitit

        queue = SlurmWatcher(self._settings()["name"], stop)
        submitit.SlurmJob.watcher = queue
        return queue

    def _settings(self) -> dict[str, Any]:
        """The values of `hydra.launcher`."""
        return dict(self._config.hydra.launcher)


def _exit_code_by_files(job: Job, stop: Stop) -> int:
    """The exit code, by the files of its run, of a job for which the launcher reports none."""
    if is_finished(job):
        return 0
    if job.directory.read_status().state in ("failed", "diverged"):
        return 1
    return INTERRUPTED if stop.requested else -signal.SIGKILL  # the next sweep resumes it


@dataclass
class _JobFunction:
    """The function that Hydra's launcher calls, with a config that has the number of a job."""

    jobs: Sequence[Job]
    folder: Path

    def __call__(self, composed: Any) -> tuple[int, float]:
        """(exit code, seconds) of the job's process."""
        os.chdir(self.folder)
        started = time.monotonic()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_SUBMITIT)
        try:
            process = self.jobs[composed.job].start({})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return process.wait(), time.monotonic() - started
        except BaseException:  # Ctrl-C or a cancelled job: the run must end with this process
            process.terminate()
            process.wait()
            raise
