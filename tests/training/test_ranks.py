"""The gradient of an optimizer step over two processes is that of one."""

import pytest
import torch
from command_line import in_two_ranks
from optimizer_step import OBJECTIVES, relative, rows, toy, trainer_gradient

from talr_cli.methods.schedules import Finch


def as_rank(names, micro, folder):
    """The steps of one of two ranks; the first writes down what they were."""
    for name in names:
        model, finch = toy(), Finch()
        gradient, _ = trainer_gradient(
            model, rows(), OBJECTIVES[name][0], folder, micro, schedule=finch, ranks=2
        )
        if torch.distributed.get_rank() == 0:
            stored = {p.grad.untyped_storage().data_ptr() for p in model.parameters()}
            torch.save((gradient, len(stored), finch.state()["mean_loss"]), folder / f"{name}.pt")


@pytest.mark.parametrize("micro", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_two_ranks_make_the_step_of_one(micro, tmp_path):
    names = ("sft", "talr", "talr-base", "talr-shuffled", "talr-normalised", "tailsft")
    in_two_ranks(as_rank, names, micro, tmp_path)
    for name in names:
        expected, loss = trainer_gradient(toy(), rows(), OBJECTIVES[name][0], tmp_path, 16)
        gradient, storages, seen = torch.load(tmp_path / f"{name}.pt")
        assert relative(gradient, expected) < 1e-5, name
        assert seen == pytest.approx(loss, rel=1e-5)  # what a schedule follows is of both ranks
        # The gradients lie in the one buffer that the ranks exchange, and stay there after it.
        assert storages == 1
