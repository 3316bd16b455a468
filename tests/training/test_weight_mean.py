"""The moving average of the weights: its formula, a training that feels nothing, a kill."""

import pytest
import torch
from command_line import in_two_ranks, same
from faults.tiny_training import STEPS, cut_before_the_last_checkpoint, trained
from optimizer_step import toy
from safetensors.torch import load_file
from transformers import TrainerCallback

from talr_cli.methods.optimizers import AdamW
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training.weight_mean import WeightMean

DECAY = 0.8


class Watch(TrainerCallback):
    """Copies the weights after every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: one.detach().clone() for name, one in model.named_parameters()})


def test_the_moving_average_follows_its_formula_and_resumes_bit_for_bit(tmp_path):
    alone, beside = Watch(), Watch()
    trained(RunDirectory(tmp_path / "alone"), AdamW(), callbacks=[alone])
    whole = RunDirectory(tmp_path / "whole")
    model, _ = trained(whole, AdamW(), callbacks=[beside], mean=WeightMean(DECAY))
    assert len(alone.seen) == STEPS
    assert all(map(same, alone.seen, beside.seen))  # the training feels nothing
    found = dict(model.named_parameters())
    for name, tensor in found.items():
        after = [weights[name].double() for weights in alone.seen]
        expected = DECAY ** (STEPS - 1) * after[0] + (1 - DECAY) * sum(
            DECAY ** (STEPS - 1 - step) * after[step] for step in range(1, STEPS)
        )
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
    cut = cut_before_the_last_checkpoint(whole, tmp_path / "cut")
    again, training = trained(cut, AdamW(), mean=WeightMean(DECAY))
    assert 0 < training["resumed_from_step"] < STEPS
    assert same(found, dict(again.named_parameters()))


def test_weights_that_are_not_trained_have_no_average(tmp_path):
    model, mean = toy(), WeightMean(0.5)
    model.lm_head.weight.requires_grad = False
    mean.update(model)
    mean.save(tmp_path, is_main=True)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert load_file(tmp_path / "weight_mean.safetensors").keys() == trained
    assert len(trained) == len([*model.parameters()]) - 1


def test_weights_return_bit_for_bit_after_the_average_took_their_place():
    model, mean = toy(), WeightMean(0.5)
    first = {name: one.detach().clone() for name, one in model.named_parameters()}
    mean.update(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    mean.update(model)
    moved = {name: one.detach().clone() for name, one in model.named_parameters()}
    with mean.in_place_of_weights(model):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, first[name] + 0.5)
    assert same(moved, dict(model.named_parameters()))
    with WeightMean(0.5).in_place_of_weights(model):  # of no step, as fp16 may leave out all
        assert same(moved, dict(model.named_parameters()))


@pytest.mark.slow
def test_the_average_under_fsdp2_is_that_of_one_process_and_survives_a_checkpoint(tmp_path):
    in_two_ranks(split_up, tmp_path)


def split_up(folder):
    """One rank: the mean of weights that FSDP2 has split up is that of whole ones, bit for bit."""
    torch.distributed.init_process_group("gloo")
    model, plain = toy(), toy()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    torch.distributed.fsdp.fully_shard(model, mesh=mesh)
    parts, whole = WeightMean(DECAY), WeightMean(DECAY)

    def step():
        with torch.no_grad():
            for one, other in zip(model.parameters(), plain.parameters(), strict=True):
                one.to_local().mul_(1.1)
                other.mul_(1.1)
        parts.update(model)
        whole.update(plain)

    def gathered():
        return {name: one.full_tensor().clone() for name, one in model.named_parameters()}

    step()
    step()
    parts.save(folder, is_main=torch.distributed.get_rank() == 0)
    torch.distributed.barrier()
    parts = WeightMean(DECAY)
    parts.load(folder, model)
    step()
    before = gathered()
    ids = torch.arange(1, 9)[None]
    with parts.in_place_of_weights(model), whole.in_place_of_weights(plain), torch.no_grad():
        assert same(gathered(), dict(plain.named_parameters()))
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert same(before, gathered())
    assert same(before, dict(plain.named_parameters()))
