"""Mixture-of-experts models are trained on the plain loss, and their config stays as it was."""

import pytest
import torch
from optimizer_step import relative, rows, trainer_gradient
from small_models import made

from talr_cli.methods.objectives import Sft


@pytest.mark.parametrize("kind", ["qwen3_moe", "granitemoe", "gpt_oss"])
@pytest.mark.parametrize("asked", [False, True])
def test_the_gradient_of_experts_has_no_router_loss(kind, asked, tmp_path):
    model, batch = made(kind), rows(4)
    model.config.output_router_logits = asked
    model.config.router_aux_loss_coef = 0.5
    ours, _ = trainer_gradient(model, batch, Sft(), tmp_path, micro=2)
    assert model.config.output_router_logits is asked
    assert model.config.router_aux_loss_coef == 0.5
    assert model.config.use_cache
    model.config.output_router_logits = False
    model.zero_grad()
    losses = []
    for row in batch:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        logits = model(ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
    targets = sum(label != -100 for row in batch for label in row["labels"][1:])
    (sum(losses) / targets).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert relative(ours, expected) < 1e-4
