"""The gradient of an optimizer step over two processes is that of one."""

import subprocess
import sys
from pathlib import Path

import optimizer_step
import pytest
import torch
from optimizer_step import OBJECTIVES, relative, rows, toy, trainer_gradient


@pytest.mark.parametrize(
    ("names", "micro"),
    [
        ("sft,talr,talr-base,talr-shuffled,tailsft", 2),
        pytest.param("sft,talr,talr-base,talr-shuffled,tailsft", 8, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_make_the_step_of_one(names, micro, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    program = [optimizer_step.__file__, names, str(micro), str(tmp_path)]
    done = subprocess.run(
        [*command, *program],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(optimizer_step.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in names.split(","):
        expected, loss = trainer_gradient(toy(), rows(), OBJECTIVES[name][0], tmp_path, 16)
        gradient, storages, seen = torch.load(tmp_path / f"{name}.pt")
        assert relative(gradient, expected) < 1e-5, name
        assert seen == pytest.approx(loss, rel=1e-5)  # what a schedule follows is of both ranks
        # The gradients lie in the one buffer that the ranks exchange, and stay there after it.
        assert storages == 1
