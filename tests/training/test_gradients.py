"""The loss and its gradient against plain full-logits references, however the batch is cut up."""

import copy
import math

import pytest
import torch
from optimizer_step import (
    OBJECTIVES,
    PAD,
    gradient,
    reference,
    reference_gradient,
    relative,
    rows,
    talr_weights,
    toy,
    trainer_gradient,
)

from talr_cli.methods import regularisers
from talr_cli.methods.adapters import Lora
from talr_cli.methods.objectives import Flow, Sft, Talr
from talr_cli.methods.regularisers import L2, Kl
from talr_cli.models.head import at_targets, causal_lm, target_hidden
from talr_cli.training import head_kernel
from talr_cli.training.collator import Collator
from talr_cli.training.token_scores import add_token_scores, score_targets


def perturbed(model, seed=1):
    """A copy of the model with other weights nearby."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return other


# Where the whole step is looked at, fewer ways to cut it up: how rows are joined is no matter.
CUTS = [(name, micro) for name in OBJECTIVES for micro in (16, 4, 1)]
JOINED = [(*cut, True) for cut in CUTS if cut[1] != 16 or not OBJECTIVES[cut[0]][0].looks_at_step]
PADDED = [(*cut, False) for cut in CUTS if cut[1] != 1 and not OBJECTIVES[cut[0]][0].sees_base]


@pytest.mark.parametrize(("name", "micro", "padding_free"), JOINED + PADDED)
def test_gradient_matches_the_formula_however_the_batch_is_split(
    name, micro, padding_free, tmp_path
):
    objective, weigh = OBJECTIVES[name]
    model, batch = toy(), rows()
    expected, expected_loss = reference_gradient(model, batch, weigh)
    actual, loss = trainer_gradient(model, batch, objective, tmp_path, micro, padding_free)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(actual, expected) < 1e-5


def plain_float64_head(model, outputs):
    """In place of TRL's fused head, which computes in fp32."""
    assert not outputs

    def forward(*args, targets=None, **kwargs):
        hidden = at_targets(model.base_model(*args, **kwargs).last_hidden_state, targets["at"])
        picked = model.lm_head(hidden).log_softmax(-1).gather(1, targets["ids"][:, None])[:, 0]
        nothing = dict.fromkeys(("entropy", "log_sum_sq_probs"))
        return {"hidden": hidden, "log_probs": picked, **nothing}

    model.forward = forward


@pytest.mark.parametrize("name", ["sft", "dft", "flow", "l2"])
def test_splitting_the_batch_changes_no_gradient_to_ten_digits_in_float64(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr("talr_cli.training.trainer.add_token_scores", plain_float64_head)
    model, batch = toy(torch.float64), rows()
    objective = OBJECTIVES["sft" if name == "l2" else name][0]

    def step(batch, micro, padding_free=False):
        regulariser = None
        if name == "l2":
            regulariser = L2(strength=0.3, reduction="sum")
            regulariser.start(perturbed(model), lambda: model)
        return trainer_gradient(
            model, batch, objective, tmp_path, micro, padding_free, regulariser
        )[0]

    whole = step(batch, 16)
    assert relative(step(batch, 4), whole) < 1e-10
    assert relative(step(batch, 1), whole) < 1e-10
    assert relative(step(batch, 4, padding_free=True), whole) < 1e-10
    assert relative(step(batch[::-1], 4), whole) < 1e-10


@pytest.mark.parametrize(("micro", "padding_free"), [(16, False), (4, False), (4, True)])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_is_that_of_the_full_distributions(direction, micro, padding_free, tmp_path):
    base, batch = toy(), rows()
    model = perturbed(base)

    def penalty(model, batch, scored, count):
        total = 0.0
        for row, (_, log_q) in zip(batch, scored, strict=True):
            log_p = reference(base, row)[1].detach()
            if direction == "reverse":
                log_p, log_q = log_q, log_p
            total = total + torch.nn.functional.kl_div(
                log_q, log_p, log_target=True, reduction="sum"
            )
        return 0.7 * total / count

    expected, expected_loss = reference_gradient(model, batch, OBJECTIVES["dft"][1], penalty)
    regulariser = Kl(beta=0.7, direction=direction)
    regulariser.start(model, lambda: base)
    actual, loss = trainer_gradient(
        model, batch, OBJECTIVES["dft"][0], tmp_path, micro, padding_free, regulariser
    )
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(actual, expected) < 2e-5


def test_kl_under_an_adapter_is_to_the_model_without_it():
    """As to a second copy of the base, without the dropout that the training has."""
    base, batch = toy(), Collator(PAD)(rows(6))
    adapted = Lora(rank=4, alpha=8).wrap(toy(), "some/base").train()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            parameter += "lora_" in name
    for layer in causal_lm(adapted).model.layers:
        layer.self_attn.attention_dropout = 0.5
    hidden = target_hidden(causal_lm(adapted), batch)
    found = []
    for model in (adapted, base):
        regulariser = Kl(beta=0.7)
        regulariser.start(model, lambda: base)
        found.append(regulariser.loss(adapted, batch, hidden).item())
        assert adapted.training
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[1] > 0.1


@pytest.mark.parametrize("micro", [16, 4])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_l2_is_added_once_per_step_with_its_exact_gradient(reduction, micro, tmp_path, monkeypatch):
    monkeypatch.setitem(
        regularisers.CHUNK_SIZE, "cpu", 100
    )  # weights of many chunks, the last not full
    base, batch = toy(), rows()
    model = perturbed(base)
    start = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    count = sum(parameter.numel() for parameter in start.values())

    def penalty(model, batch, scored, targets):
        total = sum(
            (parameter - start[name]).square().sum() for name, parameter in model.named_parameters()
        )
        return 0.3 * total / (count if reduction == "mean" else 1)

    expected, _ = reference_gradient(model, batch, OBJECTIVES["sft"][1], penalty)
    regulariser = L2(strength=0.3, reduction=reduction)
    regulariser.start(base, lambda: base)
    actual, _ = trainer_gradient(model, batch, Sft(), tmp_path, micro, regulariser=regulariser)
    assert relative(actual, expected) < 1e-5


def test_l2_pulls_back_weights_that_no_row_has_reached():
    """As those of an expert that no token took: a step leaves them without a gradient."""
    model = toy()
    regulariser = L2(strength=0.3, reduction="sum")
    regulariser.start(model, lambda: model)
    for parameter in model.parameters():
        parameter.data += 1.0
    model.lm_head.weight.grad = torch.full_like(model.lm_head.weight, 5.0)
    penalty = regulariser.add_gradient(model)
    for name, parameter in model.named_parameters():
        own = 5.0 if name == "model.embed_tokens.weight" else 0.0  # the head's too
        expected = torch.full_like(parameter, own + 2 * 0.3)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert float(penalty) == pytest.approx(0.3 * count, rel=1e-4)


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_theta0_is_kept_in_half_precision_only_where_that_is_exact_or_asked_for(asked):
    model = toy()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.bfloat16())
    regulariser = L2(theta0_dtype=asked)
    regulariser.start(model, lambda: model)
    kept = regulariser._theta0
    half, full = torch.bfloat16, torch.float32
    exact, inexact = {"auto": (half, full), "float32": (full, full), "bfloat16": (half, half)}[
        asked
    ]
    assert kept["model.embed_tokens.weight"].dtype == exact
    assert kept["model.layers.0.mlp.up_proj.weight"].dtype == inexact
    for name, parameter in model.named_parameters():
        assert torch.equal(kept[name].float(), parameter.to(kept[name].dtype).float())


def test_flow_with_equal_base_losses_is_sft_over_e(tmp_path):
    weights = Flow().sequence_weights(torch.full((16,), 1.7))
    batch = [{**row, "sequence_weight": float(w)} for row, w in zip(rows(), weights, strict=True)]
    sft, _ = trainer_gradient(toy(), batch, Sft(), tmp_path, 4)
    flow, _ = trainer_gradient(toy(), batch, Flow(), tmp_path, 4)
    torch.testing.assert_close(flow, sft / math.e)


def test_first_lagged_step_is_exact(tmp_path):
    expected, _ = reference_gradient(toy(), rows(), talr_weights)
    actual, _ = trainer_gradient(toy(), rows(), Talr(tau_estimator="lagged"), tmp_path, 4)
    assert relative(actual, expected) < 1e-5


def test_microbatch_scope_depends_on_the_split(tmp_path):
    """The reason why it is not the default."""
    whole, _ = trainer_gradient(toy(), rows(), Talr(tau_scope="microbatch"), tmp_path, 16)
    cut, _ = trainer_gradient(toy(), rows(), Talr(tau_scope="microbatch"), tmp_path, 4)
    assert relative(cut, whole) > 1e-3


def test_gradient_agrees_with_finite_differences(toy_model, tmp_path):
    """Weights held fixed, as the objective lets no gradient through them.

    Along the gradient itself, since the model's norms compute in fp32 and blur small steps.
    """
    batch = rows(4)
    fixed = talr_weights([reference(toy_model, row) for row in batch], batch)
    fixed = [weights.detach() for weights in fixed]

    def loss():
        with torch.no_grad():
            per_row = [reference(toy_model, row)[0] for row in batch]
        count = sum(len(losses) for losses in per_row)
        return float(sum((w * one).sum() for w, one in zip(fixed, per_row, strict=True)) / count)

    direction, _ = trainer_gradient(toy_model, batch, Talr(), tmp_path, 4)
    length = float(direction.norm())

    def move(step):
        position = 0
        with torch.no_grad():
            for parameter in toy_model.parameters():
                part = direction[position : position + parameter.numel()]
                parameter += step * part.view_as(parameter) / length
                position += parameter.numel()

    step = 1e-2
    move(step)
    above = loss()
    move(-2 * step)
    below = loss()
    assert (above - below) / (2 * step) == pytest.approx(length, rel=1e-3)


def test_only_targets_are_projected(toy_model, monkeypatch):
    """The head sees as many positions as there are targets, on a CPU too, and by few columns."""
    monkeypatch.setattr(head_kernel, "COLUMNS_BY_TORCH", 20)
    batch = Collator(PAD)(rows(6))
    add_token_scores(toy_model, ())
    seen = []
    original = torch.mm

    def counting(a, b, **kwargs):
        seen.append((a.shape[0], b.shape[-1]))
        return original(a, b, **kwargs)

    monkeypatch.setattr(torch, "mm", counting)
    tokens, _ = score_targets(toy_model, toy_model, batch)
    targets = int((batch["labels"][:, 1:] != -100).sum())
    assert len(tokens.log_probs) == targets
    assert seen == [(targets, 20), (targets, 20), (targets, 10)]


def test_a_batch_without_targets_is_a_differentiable_zero(toy_model):
    add_token_scores(toy_model, ())
    batch = Collator(PAD)([{"input_ids": [1, 2, 3, 4, 5], "labels": [-100] * 5}] * 2)
    tokens, _ = score_targets(toy_model, toy_model, batch)
    loss = -tokens.log_probs.sum()
    loss.backward()
    assert float(loss) == 0.0
    assert float(gradient(toy_model).abs().sum()) == 0.0


def test_a_step_without_targets_changes_nothing(tmp_path):
    batch = [{**row, "labels": [-100] * len(row["labels"])} for row in rows(4)]
    actual, loss = trainer_gradient(toy(), batch, Talr(), tmp_path, 2)
    assert loss == 0.0
    assert not actual.any()


def test_a_step_of_one_target_is_divided_by_one(tmp_path):
    batch = [{**row, "labels": [-100] * len(row["labels"])} for row in rows(2)]
    batch[1]["labels"][-1] = batch[1]["input_ids"][-1]
    model = toy()
    expected, _ = reference_gradient(model, batch[1:], OBJECTIVES["sft"][1])
    actual, _ = trainer_gradient(model, batch, Sft(), tmp_path, 2)
    assert relative(actual, expected) < 1e-5


def test_a_row_without_targets_takes_no_weight_of_another(tmp_path):
    batch = rows(8)
    for row in batch[:4]:
        row["labels"] = [-100] * len(row["labels"])
    model, (objective, weigh) = toy(), OBJECTIVES["flow"]
    expected, _ = reference_gradient(model, batch[4:], weigh)
    actual, _ = trainer_gradient(model, batch, objective, tmp_path, 8)
    assert relative(actual, expected) < 1e-5


def test_losses_stay_finite_at_extreme_logits(toy_model):
    """p = 1 and p near 0: weights and gradients stay finite at losses of 1e4."""
    with torch.no_grad():
        toy_model.lm_head.weight.mul_(1e5)
    add_token_scores(toy_model, ())
    batch = Collator(PAD)(rows(4))
    tokens, _ = score_targets(toy_model, toy_model, batch)
    assert float(-tokens.log_probs.min()) > 1e4
    objective = Talr()
    weights = objective.weights(tokens, objective.temperature(tokens.sequence_losses()))
    (weights * -tokens.log_probs).mean().backward()
    assert torch.isfinite(gradient(toy_model)).all()
    assert math.isfinite(float(weights.sum()))
