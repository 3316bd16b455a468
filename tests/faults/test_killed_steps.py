"""What looks at whole steps, and what an adapter trains, goes on where a killed run was."""

import pytest
import torch
from command_line import in_two_ranks
from optimizer_step import toy
from tiny_training import EPOCH_STEPS, STEPS, trained
from transformers import TrainerCallback

from talr_cli.methods.adapters import Lora, Oft
from talr_cli.methods.objectives import TailSft, Talr
from talr_cli.methods.regularisers import L2
from talr_cli.runs.run_directory import RunDirectory


class Killed(TrainerCallback):
    """Falls over in the step after the first checkpoint."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == EPOCH_STEPS:
            raise ZeroDivisionError


class Stopped(TrainerCallback):
    """Asks for a stop within the second epoch, for which there is a checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == EPOCH_STEPS + 1


def whole_and_stopped(folder, **given):
    """(model, training results) of a training, and of one that was stopped and goes on."""
    whole, stopped = RunDirectory(folder / "whole"), RunDirectory(folder / "stopped")
    for run in (whole, stopped):
        run.path.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        trained(stopped, callbacks=[Stopped()], given=given)
    return trained(whole, given=given), trained(stopped, given=given)


@pytest.mark.parametrize("save", ["epoch", "no"])
def test_a_training_stopped_within_an_epoch_goes_on_with_the_rows_that_are_left(save, tmp_path):
    (model, _), (other, training) = whole_and_stopped(tmp_path, save_strategy=save)
    assert (training["resumed_from_step"], training["steps"]) == (EPOCH_STEPS + 1, STEPS)
    expected = model.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in other.state_dict().items())


def as_rank(folder):
    both = whole_and_stopped(folder, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    if torch.distributed.get_rank() == 0:
        torch.save([model.state_dict() for model, _ in both], folder / "both.pt")


@pytest.mark.slow
def test_stopped_ranks_go_on_with_the_rows_that_are_left(tmp_path):
    in_two_ranks(as_rank, tmp_path)
    expected, found = torch.load(tmp_path / "both.pt")
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    one_process, _ = trained(RunDirectory(tmp_path / "one process"))
    for name, one in one_process.state_dict().items():
        assert torch.allclose(one, found[name], atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        {"objective": TailSft()},
        {"objective": Talr(shuffle_weights=True)},
        {"objective": Talr(probabilities="base", shuffle_weights=True)},
        # What holds the weights is the base's, also where they are a checkpoint's by now.
        {"regulariser": L2(strength=0.3, reduction="sum"), "load_base": toy},
    ],
    ids=["tailsft", "talr-shuffled", "talr-base-shuffled", "l2"],
)
def test_a_killed_training_ends_with_the_same_weights(parts, tmp_path):
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    for run in (whole, killed):
        run.path.mkdir()
    model, _ = trained(whole, accumulation=2, **parts)
    with pytest.raises(ZeroDivisionError):
        trained(killed, accumulation=2, callbacks=[Killed()], **parts)
    other, training = trained(killed, accumulation=2, **parts)
    assert (training["resumed_from_step"], training["steps"]) == (EPOCH_STEPS, STEPS)
    expected = model.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in other.state_dict().items())
    ours, theirs = whole.read_metrics(), killed.read_metrics()
    assert [row["weight_p90"] for row in ours] == [row["weight_p90"] for row in theirs]
    if isinstance(parts.get("objective"), TailSft):
        # More and more rows are left out; the weights of the others make up for them.
        assert [row["weight_mean"] for row in ours] == pytest.approx([1.0] * STEPS)
        assert ours[0]["weight_p10"] == ours[0]["weight_p90"] == 1
        assert ours[-1]["weight_p10"] == 0


@pytest.mark.parametrize(
    "adapter",
    [Oft(block_size=8), Lora(rank=2, dora=True), Lora(rank=2, rslora=True)],
    ids=["oft", "dora", "rslora"],
)
def test_a_killed_training_of_an_adapter_ends_with_the_same_numbers(adapter, tmp_path):
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    for run in (whole, killed):
        run.path.mkdir()

    def go_on(run, *callbacks):
        model, training = trained(run, model=adapter.wrap(toy(), "base"), callbacks=callbacks)
        return {name: one for name, one in model.named_parameters() if one.requires_grad}, training

    expected, _ = go_on(whole)
    with pytest.raises(ZeroDivisionError):
        go_on(killed, Killed())
    found, training = go_on(killed)
    assert training["resumed_from_step"] == EPOCH_STEPS
    assert found.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    start = dict(adapter.wrap(toy(), "base").named_parameters())
    assert not any(torch.equal(one, start[name]) for name, one in found.items())
