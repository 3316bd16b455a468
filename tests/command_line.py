"""The real command line on the tiny model, and what it leaves behind."""

import json
import subprocess
import sys

import torch
from safetensors.torch import load_file

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
    return subprocess.run(
        [sys.executable, "-m", "talr_cli.cli", command, *overrides, *logged],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def train(*overrides, cwd, logger="none"):
    """Run `talr train` on the tiny model; returns its run directory."""
    done = talr("train", *SMALL, *overrides, cwd=cwd, logger=logger)
    assert done.returncode == 0, done.stderr
    return cwd / done.stdout.rpartition("run directory: ")[2].strip()


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
