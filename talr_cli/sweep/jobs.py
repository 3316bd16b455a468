"""A job: one process that makes one run, or scores one base model. What is left to do of it.

Does not know which jobs a sweep has, nor where they are started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from talr_cli.interruption import Stop
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.disk import make_folder
from talr_cli.runs.run_directory import REASON_LINES, RunDirectory

INTERRUPTED = 130  # exit code of a run that was asked to end
# What a job needs of a sweep: nothing, to go on, a decision, everything, or only to be waited for.
State = Literal["done", "to resume", "failed", "to do", "elsewhere"]


@dataclass(frozen=True)
class Job:
    """`talr COMMAND OVERRIDES`, and the run directory in which all that it does is seen."""

    command: str
    overrides: tuple[str, ...]
    config: TrainConfig | EvalConfig
    directory: RunDirectory
    points: tuple[tuple[TrainConfig, RunDirectory], ...] = ()  # that it makes along its training
    needs: RunDirectory | None = None  # of the run that is averaged
    also: bool = False  # nobody asked for it, another job needs it

    @property
    def runs(self) -> Iterator[tuple[TrainConfig, RunDirectory]]:
        """Every run that a training makes; none of an evaluation."""
        yield from self.points
        if self.command == "train":
            yield cast(TrainConfig, self.config), self.directory

    @property
    def log(self) -> Path:
        return self.directory.path / f"{self.command}.log"

    def last_lines(self) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-REASON_LINES:])

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start it in this folder, with its output added to its log.

        It does not see the Ctrl-C that reaches every process of a terminal: whoever started it
        decides, and passes it on as SIGTERM.
        """
        make_folder(self.directory.path)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self.log.open("ab") as log:
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
class Ended:
    """A job that has ended, with the exit code of its process (-N: killed by signal N)."""

    job: Job
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a job: done, found done, failed, diverged, interrupted or not started."""

    word: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.word in ("done", "found done")


class Launcher(Protocol):
    """Where jobs are made."""

    def submit(self, jobs: Iterable[Job], stop: Stop) -> Generator[Ended, None, None]:
        """Start the jobs, in this order as far as there is room; each as it ends.

        The iterable decides what is still to be made when it is asked: a launcher takes a job when
        it has room for it. It passes a requested stop on to the jobs that run, as SIGTERM, and
        goes on to their end; closing the iterator ends them at once.
        """
        ...
