"""What is computed in which precision, and what of it is kept."""

import weakref

import pytest
import torch
from datasets import Dataset
from optimizer_step import (
    gradient,
    relative,
    rows,
    sft_config,
    stub_tokenizer,
    toy,
    trainer_gradient,
)
from peft import LoraConfig, get_peft_model
from small_models import made, token_ids
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from talr_cli.errors import UserError
from talr_cli.methods.objectives import Eaft, Sft
from talr_cli.methods.regularisers import L2, Kl
from talr_cli.methods.schedules import Linear
from talr_cli.models.head import target_hidden
from talr_cli.models.loading import choose_device, choose_precision
from talr_cli.training.collator import Collator
from talr_cli.training.trainer import MethodTrainer
from talr_cli.training.weight_mean import WeightMean

HALVES = [(True, torch.bfloat16), (False, torch.float32)]


@pytest.mark.parametrize("bf16", [True, False])
def test_the_kl_of_a_fresh_adapter_is_zero(bf16, tmp_path):
    """The base's pass is computed as the model's: in another precision the two would differ."""

    def step(regulariser):
        adapted = get_peft_model(toy(), LoraConfig(r=2, target_modules="all-linear"))
        if regulariser is not None:
            regulariser.start(adapted, lambda: None)
        torch.manual_seed(0)
        return trainer_gradient(
            adapted, rows(4), Sft(), tmp_path, 2, regulariser=regulariser, bf16=bf16
        )

    torch.manual_seed(0)
    plain, plain_loss = step(None)
    torch.manual_seed(0)
    held, held_loss = step(Kl(beta=10.0))
    assert held_loss == plain_loss
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-7)


def test_the_base_under_an_adapter_predicts_without_dropout():
    base = made("gpt2")  # which has dropout of its own
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    ids = token_ids(rows=2, length=9).tolist()
    inputs = Collator(pad_token_id=0)([{"input_ids": row, "labels": row} for row in ids])
    kl = Kl(beta=1.0)
    kl.start(adapted, lambda: None)
    with torch.no_grad():
        hidden = target_hidden(base.eval(), inputs)
        adapted.train()
        # The adapter is fresh: the model without its dropout is the base.
        assert float(kl.loss(adapted, inputs, hidden)) == pytest.approx(0, abs=1e-4)
        dropped = target_hidden(base, inputs)
    assert adapted.training
    assert not torch.allclose(dropped, hidden, atol=1e-2)  # the training keeps it


@pytest.mark.parametrize(("bf16", "dtype"), HALVES)
@pytest.mark.parametrize("part", ["eaft", "kl"])
def test_every_pass_through_a_head_is_in_the_precision_of_the_model(part, bf16, dtype, tmp_path):
    model, base = toy(), toy()
    seen = set()
    for one in (model, base):
        one.lm_head.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    kl = Kl(beta=0.1) if part == "kl" else None
    if kl is not None:
        kl.start(model, lambda: base)
    objective = Eaft() if part == "eaft" else Sft()
    trainer_gradient(model, rows(4), objective, tmp_path, 4, regulariser=kl, bf16=bf16)
    assert seen == {dtype}


class WeightCopies(TorchDispatchMode):
    """Follows the bf16 tensors of two dimensions that are made of others."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16:
            self.made += [weakref.ref(out)] if out.dim() == 2 else []
        return out


def test_autocast_keeps_no_weight_copies_of_recomputed_layers(tmp_path):
    """With checkpointing a layer's bf16 weights are dead when the next one runs."""
    copies, alive = WeightCopies(), []
    model = toy()
    model.model.norm.register_forward_hook(
        lambda *_: alive.append(sum(one() is not None for one in copies.made))
    )
    with copies:
        trainer_gradient(
            model, rows(4), Sft(), tmp_path, 4, bf16=True, activation_checkpointing=True
        )
    layer = 7  # projections
    assert len(copies.made) > 2 * layer
    assert alive[0] < layer


def scaled_training(folder, scale, steps=1, mean=None):
    """A training under fp16 autocast with a loss scale: what was logged, gradients, weights.

    accelerate scales losses on GPUs only, so the parts are put in by hand; all of them are real.
    """
    arguments = sft_config(
        folder, per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-3,
        max_grad_norm=1e9, logging_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    regulariser = L2(strength=0.3, reduction="sum")
    base = toy()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.05
    regulariser.start(base, lambda: base)
    logged, gradients, weights = [], [], []

    class Weights(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append([one.detach().clone() for one in model.parameters()])

    class Catching(MethodTrainer):
        def _clip_grad_norm(self, model):
            norm = super()._clip_grad_norm(model)
            gradients.append(gradient(self.model).clone())
            return norm

        def log(self, logs, start_time=None):
            super().log(logs, start_time)
            logged.append(logs)

    trainer = Catching(
        model=toy(), args=arguments, objective=Sft(), regulariser=regulariser, mean=mean,
        schedule=Linear(warmup_share=0.0), callbacks=[Weights()],
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(rows(4)),
    )  # fmt: skip
    accelerator = trainer.accelerator
    if scale is not None:
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    try:
        trainer.train()
    finally:
        accelerator.state._mixed_precision = "no"
    return [one for one in logged if "loss" in one], gradients, weights


def test_the_loss_scale_of_fp16_changes_no_gradient(tmp_path):
    """Nor that of a penalty, which is added to gradients that are scaled."""
    _, expected, _ = scaled_training(tmp_path, None)
    _, actual, _ = scaled_training(tmp_path, 2.0**10)
    assert relative(actual[0], expected[0]) < 5e-3


def test_a_step_whose_scale_is_too_large_is_left_out_and_is_no_divergence(tmp_path):
    mean, decay = WeightMean(0.9), 0.9
    logged, _, weights = scaled_training(tmp_path, 2.0**30, steps=14, mean=mean)
    scales = [one["loss_scale"] for one in logged]
    left_out = [one for one in logged if "grad_norm" not in one]
    assert 1 <= len(left_out) < 14
    assert scales[-1] == 2.0 ** (30 - len(left_out))
    assert logged[-1]["loss"] < logged[0]["loss"]
    # The moving average begins with the first step that is made, and a step left out is none.
    made = [one for one, log in zip(weights, logged, strict=True) if "grad_norm" in log]
    assert "grad_norm" not in logged[0]
    expected = made[0]
    for after in made[1:]:
        expected = [
            decay * one + (1 - decay) * new for one, new in zip(expected, after, strict=True)
        ]
    torch.testing.assert_close(list(mean._mean.values()), expected)


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("cpu", True, "bf16"),
        ("cpu", False, "fp32"),
        ("mps", False, "fp32"),
    ],
)
def test_auto_precision_follows_the_device(device, has_bf16, expected, monkeypatch):
    monkeypatch.setattr("talr_cli.models.loading.bf16_is_fast", lambda device: has_bf16)
    precision, reason = choose_precision("auto", device)
    assert precision == expected
    assert reason.startswith("auto: ")
    assert choose_precision("fp32", device)[0] == "fp32"


def test_fp16_on_a_cpu_and_a_device_that_is_not_there_are_refused():
    with pytest.raises(UserError, match=r"trainer\.precision=fp16 needs a GPU"):
        choose_precision("fp16", "cpu")
    with pytest.raises(UserError, match="device=mps, but torch sees no such device"):
        choose_device("mps")


def test_the_gpu_of_an_apple_machine_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == "mps"
