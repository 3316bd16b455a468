"""What is computed in which precision, and what of it is kept."""

import weakref

import pytest
import torch
from optimizer_step import rows, toy, trainer_gradient
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from talr_cli.methods.objectives import Eaft, Sft
from talr_cli.methods.regularisers import Kl

HALVES = [(True, torch.bfloat16), (False, torch.float32)]


@pytest.mark.parametrize("bf16", [True, False])
def test_a_fresh_adapter_diverges_from_its_base_by_nothing(bf16, tmp_path):
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


def test_autocast_keeps_no_copies_of_weights_that_are_computed_again(tmp_path):
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
