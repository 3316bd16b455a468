"""A job: a process that makes a run or scores a base model.

Does not know which jobs a sweep has, nor where they run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from talr_cli.errors import reason_of
from talr_cli.interruption import Stop
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.atomic import open_to_append
from talr_cli.runs.disk import explain_write_errors, make_folder
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import REASON_LINES, RunDirectory

INTERRUPTED = 130  # exit code of a run that was asked to stop
# The state of a job before a sweep; `elsewhere`: another process is making the run.
State = Literal["done", "to resume", "failed", "to do", "elsewhere"]


@dataclass(frozen=True)
class Job:
    """`talr COMMAND OVERRIDES`, and the directory of the run that it makes or scores."""

    command: str
    overrides: tuple[str, ...]
    config: TrainConfig | EvalConfig
    directory: RunDirectory
    points: tuple[tuple[TrainConfig, RunDirectory], ...] = ()  # runs along its training
    depends_on: RunDirectory | None = None  # the run whose weights it merges with the base's
    is_dependency: bool = False  # whether it is made only because another job depends on it

    @property
    def runs(self) -> Iterator[tuple[TrainConfig, RunDirectory]]:
        """Every run that the job makes; none for an evaluation."""
        yield from self.points
        if self.command == "train":
            yield cast(TrainConfig, self.config), self.directory

    @property
    def log(self) -> Path:
        return self.directory.path / f"{self.command}.log"

    def last_lines(self) -> str:
        """The last lines of its log, or why they cannot be read."""
        try:
            text = read_text(self.log, "replace")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            return f"{self.log} cannot be read ({reason_of(error)})"
        return "\n".join(text.strip().splitlines()[-REASON_LINES:])

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start its process, which appends its output to the log.

        The process ignores Ctrl-C and the end of the terminal, which reach every process of it: the
        sweep decides, and passes them on as SIGTERM.

        Args:
            environment: Additional environment variables.
        """
        make_folder(self.directory.path)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            with explain_write_errors(self.log), open(self.log, "ab", opener=open_to_append) as log:
                os.utime(log.fileno())  # a sweep that waits sees that it has started
                return subprocess.Popen(
                    [sys.executable, "-m", "talr_cli.cli", self.command, *self.overrides],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended, with the exit code of its process (-N: killed by signal N)."""

    job: Job
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The result of a job: done, found done, failed, diverged, interrupted or not started."""

    result: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.result in ("done", "found done")


class Launcher(Protocol):
    """Where jobs are run; `queued`: they may wait in a queue before they start."""

    queued: bool

    def submit(self, jobs: Iterable[Job], stop: Stop) -> Generator[EndedJob, None, None]:
        """Start the jobs in this order when there is room; yields each when it has ended.

        A launcher takes the next job only when it has room for it, as the iterable decides at that
        moment which one it is. A requested stop is passed on to running jobs as SIGTERM, and they
        are waited for; closing the iterator ends them at once.
        """
        ...
