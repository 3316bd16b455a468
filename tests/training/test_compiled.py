"""trainer.compile: the same training, by compiled layers, that goes on where it was cut."""

import pytest
import torch
from faults import tiny_training
from faults.tiny_training import cut_before_the_last_checkpoint
from optimizer_step import toy
from small_models import made

from talr_cli.errors import UserError
from talr_cli.methods.objectives import Talr
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training import compiled

# By which torch traces the layers and then runs what it found as it is: in seconds, not in minutes.
TRACED = "eager"


def trained(folder, compile_layers, checkpointing=False, joined=True):
    """(model, losses of all steps) of a training of two epochs that goes on where it ended."""
    model, run = toy(), RunDirectory(folder)
    model.set_attn_implementation("sdpa")
    given = {
        "num_train_epochs": 2,
        "activation_checkpointing": checkpointing,
        "padding_free": joined,
    }
    model, training = tiny_training.trained(
        run, objective=Talr(), model=model, given=given, compiled=compile_layers
    )
    losses = [row["loss"] for row in run.read_metrics() if "loss" in row]
    return model, losses, training


@pytest.mark.parametrize(
    ("backend", "checkpointing", "joined"),
    [
        (TRACED, True, True),
        pytest.param(TRACED, False, False, marks=pytest.mark.slow),
        pytest.param("inductor", True, True, marks=pytest.mark.slow),
        pytest.param("inductor", False, False, marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_train_the_same_weights_and_resume_bit_for_bit(
    backend, checkpointing, joined, tmp_path, monkeypatch
):
    monkeypatch.setattr(compiled, "BACKEND", backend)
    plain, losses, _ = trained(tmp_path / "plain", False, checkpointing, joined)
    torch._dynamo.utils.counters.clear()
    whole, found, _ = trained(tmp_path / "whole", True, checkpointing, joined)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert found == pytest.approx(losses, rel=1e-5)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    moved = [a - b for a, b in zip(plain.parameters(), toy().parameters(), strict=True)]
    for ours, theirs, by in zip(whole.parameters(), plain.parameters(), moved, strict=True):
        assert float(((ours - theirs).norm() / by.norm()).detach()) < 1e-3

    cut = cut_before_the_last_checkpoint(RunDirectory(tmp_path / "whole"), tmp_path / "cut")
    again, _, training = trained(cut.path, True, checkpointing, joined)
    assert training["resumed_from_step"] == 2
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any("forward" in vars(module) for module in again.modules())


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3_moe", "gpt_neox", "phi"])
def test_decoder_layers_are_found_in_every_architecture(kind):
    assert len(compiled._layers(made(kind))) == 2


def test_compile_on_mps_under_fsdp2_or_without_a_compiler_is_refused(monkeypatch):
    for device, sharded, said in (
        ("mps", False, "not for mps"),
        ("cpu", True, "distributed=ddp"),
    ):
        with pytest.raises(UserError, match=said):
            compiled.check_compiler(device, sharded)
    compiled.check_compiler("cpu", False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="there is no no-such-compiler: install"):
        compiled.check_compiler("cpu", False)
