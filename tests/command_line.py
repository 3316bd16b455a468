"""The real command line on the tiny model, and what it leaves behind.

Each command is a process of its own, and so is each job of a sweep. They are forked from one that
has imported torch and its like and done nothing else: importing them would take longer than most
commands do.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from talr_cli.sweep import jobs

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "talr_cli.commands.train",
        "talr_cli.evaluation.evaluate",
        "talr_cli.evaluation.general.tasks",
        "talr_cli.report.study_report",
        "talr_cli.sweep.jobs",
        "talr_cli.training.loop",
    ]
)
TIMEOUT = 600  # seconds

SMALL = (
    "model=tiny",
    "dataset.train_rows=24",
    "dataset.validation_rows=4",
    "dataset.test_rows=6",
    "trainer.epochs=2",
    "trainer.batch_size=4",
    "suite.limit=2",
    "domain.max_new_tokens=4",
    "device=cpu",
)


def talr(command, *overrides, cwd, logger="none"):
    """`logger=None`: for a command that has no logger."""
    logged = [] if logger is None else [f"logger={logger}"]
    arguments = [str(one) for one in (command, *overrides, *logged)]
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = FORKS.Process(target=_run, args=(arguments, cwd, dict(os.environ), out, err))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"talr {' '.join(arguments)}: not done after {TIMEOUT} s")
        said = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        return subprocess.CompletedProcess(["talr", *arguments], process.exitcode, *said)


def _run(arguments, cwd, environment, out, err):
    """In the forked process: `python -m talr_cli.cli` with these arguments, there."""
    from talr_cli import cli

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    sys.argv = ["talr", *arguments]
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # The jobs that it starts are forked from the same process as it was.
    forkserver._forkserver.ensure_running = lambda: None
    jobs.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})
    sys.exit(cli.main())


class Forked:
    """`subprocess.Popen` of `python -m talr_cli.cli`, as a sweep uses it."""

    def __init__(self, args, env, stdin, stdout, stderr):
        _, *module, command = args[:4]
        assert module == ["-m", "talr_cli.cli"], args
        assert (stdin, stderr) == (subprocess.DEVNULL, subprocess.STDOUT)
        said = stdout.name
        self._process = FORKS.Process(
            target=_run, args=([command, *args[4:]], Path.cwd(), dict(env), said, said)
        )
        self._process.start()
        self.kill, self.terminate = self._process.kill, self._process.terminate

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("talr", timeout)
        return self.returncode


def train(*overrides, cwd, logger="none"):
    """Run `talr train` on the tiny model; returns its run directory."""
    done = talr("train", *SMALL, *overrides, cwd=cwd, logger=logger)
    assert done.returncode == 0, done.stderr
    # transformers prints a line of its own where W&B is offline, whenever it is imported.
    return cwd / done.stdout.rpartition("run directory: ")[2].splitlines()[0]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
