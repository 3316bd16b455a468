"""Mixture-of-experts models are trained on the plain loss, and their config stays as it was."""

import pytest
from optimizer_step import OBJECTIVES, reference_gradient, relative, rows, trainer_gradient
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
    expected, _ = reference_gradient(model, batch, OBJECTIVES["sft"][1])
    assert relative(ours, expected) < 1e-4
