"""The real command line on the tiny model, and what it leaves behind.

Each command is a process of its own, and so is each job of a sweep and each rank of a run. They are
forked from one that has imported torch and its like (preloaded.py) and done nothing else: importing
them would take longer than most commands do.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import torch
from safetensors.torch import load_file

from talr_cli.runs.manifest import find_damage
from talr_cli.sweep import jobs

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])
TIMEOUT = 600  # seconds
ENVIRONMENT = dict(os.environ)  # as the tests find it

SMALL = (
    "model=tiny",
    "dataset.target=label",  # a few tokens a row: most of a step is the head's product with them
    "dataset.train_rows=24",
    "dataset.validation_rows=4",
    "dataset.test_rows=6",
    "trainer.epochs=2",
    "trainer.batch_size=4",
    "suite.limit=2",
    "domain.max_new_tokens=4",
    "device=cpu",
)
# Behind SMALL, of a run that is killed or stopped in its midst: its steps take four times as long.
LONG_ROWS = "dataset.target=explanation"


@cache
def _start_server():
    """The process that all are forked from finds `preloaded` where the tests are."""
    found = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}
    with mock.patch.dict(os.environ, found, clear=True):
        forkserver.ensure_running()


def forked(target, *arguments):
    """A process that is to call it, with everything imported; `start` it."""
    _start_server()
    return FORKS.Process(target=target, args=arguments)


def talr(command, *overrides, cwd, logger="none"):
    """`logger=None`: for a command that has no logger."""
    logged = [] if logger is None else [f"logger={logger}"]
    arguments = [str(one) for one in (command, *overrides, *logged)]
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = forked(_run, arguments, cwd, dict(os.environ), out, err)
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"talr {' '.join(arguments)}: not done after {TIMEOUT} s")
        said = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        return subprocess.CompletedProcess(["talr", *arguments], process.exitcode, *said)


def _run(arguments, cwd, environment, out, err, leads=False):
    """In the forked process: `python -m talr_cli.cli` with these arguments, there."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    from talr_cli import cli

    preloaded = sys.modules["preloaded"]  # a fork server goes on without what it cannot import
    if leads:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if {name: text for name, text in environment.items() if name.startswith("HF_")} != (
        preloaded.OF_HUB
    ):  # it has to import the hub's client anew
        os.execl(sys.executable, sys.executable, "-m", "talr_cli.cli", *arguments)
    sys.path.insert(0, str(cwd))
    sys.argv = ["talr", *arguments]
    # The jobs and ranks that it starts are forked from the same process as it was.
    forkserver._forkserver.ensure_running = lambda: None
    Forked.out, Forked.err = out, err
    jobs.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})
    subprocess_handler.Popen = Forked
    sys.exit(cli.main())


class Forked:
    """`subprocess.Popen` of `python -m talr_cli.cli`, as a sweep and a run of ranks use it."""

    out = err = None  # where this process itself writes

    def __init__(self, args, env, stdin=None, stdout=None, stderr=None, start_new_session=False):
        _, *module, command = args[:4]
        assert module == ["-m", "talr_cli.cli"], args
        out, err = self.out, self.err
        if stdout is not None:
            assert (stdin, stderr) == (subprocess.DEVNULL, subprocess.STDOUT)
            out = err = stdout.name
        self._process = FORKS.Process(
            target=_run,
            args=([command, *args[4:]], Path.cwd(), dict(env), out, err, start_new_session),
        )
        self._process.start()
        self.pid = self._process.pid
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


def in_two_ranks(function, *arguments):
    """Call it in two processes at once, which torch.distributed can connect."""
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, FORKS) as pool:
        calls = [pool.submit(_as_rank, rank, port, function, arguments) for rank in range(2)]
        for call in calls:
            call.result(TIMEOUT)


def _as_rank(rank, port, function, arguments):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        function(*arguments)
    finally:  # the other one hears of a failure
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(*overrides, cwd, logger="none"):
    """Run `talr train` on the tiny model; returns its run directory."""
    done = talr("train", *SMALL, *overrides, cwd=cwd, logger=logger)
    assert done.returncode == 0, done.stderr
    # transformers prints a line of its own where W&B is offline, whenever it is imported.
    return cwd / done.stdout.rpartition("run directory: ")[2].splitlines()[0]


def sealed(folder, pattern):
    """The manifests that are written to their end, not only begun: from these a run goes on."""
    return [path for path in folder.glob(pattern) if find_damage(path.parent) is None]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
