"""The optimizers: against formulas, and killed and resumed with the same weights."""

import importlib.util

import pytest
import torch
from conftest import config
from faults.tiny_training import STEPS, cut_before_the_last_checkpoint, trained
from optimizer_step import toy
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from talr_cli.errors import UserError
from talr_cli.methods.muon import MuonAndAdamW
from talr_cli.methods.optimizers import Adafactor, AdamW, AdamW8bit, AdamWBf16, Muon, Sgd
from talr_cli.runs.run_directory import RunDirectory

KINDS = [AdamW(weight_decay=0.1), Adafactor(), Sgd(), Muon()]
NEEDS_BNB = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)

NEEDS_AO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")


@pytest.mark.parametrize(
    "optimizer",
    [
        *KINDS,
        pytest.param(AdamW8bit(), marks=NEEDS_BNB),
        pytest.param(AdamW8bit(paged=True), marks=NEEDS_BNB),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_resumed_run_ends_with_the_same_weights(optimizer, tmp_path):
    whole = RunDirectory(tmp_path / "whole")
    model, training = trained(whole, optimizer)
    assert training["steps"] == STEPS
    cut = cut_before_the_last_checkpoint(whole, tmp_path / "cut")
    again, training = trained(cut, optimizer)
    assert 0 < training["resumed_from_step"] < STEPS
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert not torch.equal(one, dict(toy().named_parameters())[name])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "optimizer",
    [
        *(AdamW(), Sgd(), Muon()),
        pytest.param(AdamW8bit(), marks=NEEDS_BNB),
        pytest.param(AdamWBf16(), marks=NEEDS_AO),
    ],
    ids=lambda one: type(one).__name__,
)
def test_optimizer_state_has_the_estimated_size(optimizer, tied, tmp_path):
    settings = LlamaConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(settings).to(torch.bfloat16 if optimizer.bf16_weights else None)
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, **optimizer.arguments()),
        optimizer_cls_and_kwargs=optimizer.class_and_arguments(1e-3),
    )
    made = trainer.create_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with torch.compiler.set_stance("force_eager"):
        made.step()
    held = sum(
        size(one) for state in made.state.values() for name, one in state.items() if name != "step"
    )
    head, numbers = 1024 * 64, sum(parameter.numel() for parameter in model.parameters())
    said = optimizer.state_bytes(numbers, head, 0 if tied else head)
    assert said == pytest.approx(held, rel=0.05)


def size(state):
    """Bytes of what an optimizer keeps of a weight; a tensor may be made of others."""
    if not isinstance(state, torch.Tensor):
        return 0
    if hasattr(state, "__tensor_flatten__"):
        return sum(size(getattr(state, name)) for name in state.__tensor_flatten__()[0])
    return state.untyped_storage().nbytes() if state.numel() > 256 else 0


def test_muon_orthogonalises_hidden_matrices_and_leaves_the_rest_to_adamw():
    model, adamw = toy(), toy()
    optimizer = MuonAndAdamW(model, 1e-2, 0.0, 0.95, (0.9, 0.999))
    reference = torch.optim.AdamW(adamw.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    torch.manual_seed(0)
    for one, other in zip(model.parameters(), adamw.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    optimizer.step()
    reference.step()
    before = dict(toy().named_parameters())
    others = dict(adamw.named_parameters())
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            values = torch.linalg.svdvals((weight - before[name]).detach())
            # Newton-Schulz brings all but tiny singular values near 1; AdamW's size is 0.2.
            size = 1e-2 * 0.2 * max(weight.shape) ** 0.5
            assert 0.6 * size < values.median() < 1.3 * size, name
            assert values.max() < 1.4 * size, name
        else:
            assert torch.equal(weight, others[name]), name


def test_the_default_is_the_adamw_of_the_study():
    for overrides in ([], ["trainer=paper"]):
        assert config("train", *overrides).optimizer == AdamW(0.0, 0.9, 0.999)


@pytest.mark.parametrize(
    "name", ["adamw", "adamw-bf16", "adamw-8bit", "paged-adamw-8bit", "adafactor", "muon", "sgd"]
)
def test_values_of_every_optimizer_count_for_the_identity(name):
    from talr_cli.run.identity import identity

    chosen = config("train", f"optimizer={name}", "optimizer.weight_decay=0.01")
    assert chosen.optimizer.weight_decay == 0.01
    assert identity(chosen, "model") != identity(config("train", f"optimizer={name}"), "model")


def test_a_missing_package_or_fsdp2_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"adamw-8bit needs bitsandbytes: pip install -e '.\[bnb\]'"
    ):
        AdamW8bit().check(False, False, "bf16")
    with pytest.raises(UserError, match=r"adamw-bf16 needs torchao: pip install -e '.\[ao\]'"):
        AdamWBf16().check(False, False, "bf16")
    with pytest.raises(UserError, match="optimizer=muon does not go with distributed=fsdp2"):
        Muon().check(True, False, "bf16")
    AdamW().check(True, True, "fp32")


@pytest.mark.parametrize(("adapted", "precision"), [(True, "bf16"), (False, "fp32")])
def test_bf16_weights_need_bf16_and_no_adapter(adapted, precision, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="goes with adapter=none and"):
        AdamWBf16().check(False, adapted, precision)
    AdamWBf16().check(False, False, "bf16")


@NEEDS_AO
def test_an_update_of_1e_6_survives_in_bf16_on_average(tmp_path):
    """Of a weight of 0.03, whose neighbours are 1e-4 apart: to the nearest it would be none."""
    weight = torch.nn.Parameter(torch.full((256, 256), 0.03, dtype=torch.bfloat16))
    arguments = TrainingArguments(
        str(tmp_path), learning_rate=1e-6, use_cpu=True, **AdamWBf16().arguments()
    )
    kind, values = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer = kind([{"params": [weight], "weight_decay": 0.0}], **values)
    before = weight.detach().double().mean()
    with torch.compiler.set_stance("force_eager"):
        for _ in range(10):
            weight.grad = torch.ones_like(weight)  # AdamW's step is then the learning rate
            optimizer.step()
    moved = float(before - weight.detach().double().mean())
    assert moved == pytest.approx(10e-6, rel=0.2)  # three standard errors are 0.12


@NEEDS_AO
def test_a_resumed_run_in_bf16_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("faults.tiny_training.toy", lambda: toy().bfloat16())
    with torch.compiler.set_stance("force_eager"):
        test_a_resumed_run_ends_with_the_same_weights(AdamWBf16(), tmp_path)
