"""What is logged of an optimizer step, over its micro-batches."""

import numpy as np
import pytest
import torch
from optimizer_step import reference, rows, talr_weights, toy, trainer_gradient
from trl import SFTTrainer

from talr_cli.methods.objectives import Talr
from talr_cli.methods.regularisers import L2, Kl


def certain_of_some():
    """A model, and rows of which every second target is the token that it finds likeliest."""
    model, batch = toy(), rows()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 10
        for row in batch:
            likeliest = model(torch.tensor([row["input_ids"]])).logits[0].argmax(-1).tolist()
            for place in range(1, len(likeliest), 2):
                if row["labels"][place] != -100:
                    row["labels"][place] = likeliest[place - 1]
    return model, batch


def kl(model, base, batch, scored):
    pairs = [(reference(base, row)[1], ours) for row, (_, ours) in zip(batch, scored, strict=True)]
    found = sum(float((theirs.exp() * (theirs - ours)).sum()) for theirs, ours in pairs)
    return 0.7 * found / sum(len(ours) for _, ours in pairs)


def l2(model, base, batch, scored):
    pairs = zip(model.parameters(), base.parameters(), strict=True)
    return 0.3 * sum(float((one - other).double().square().sum()) for one, other in pairs)


@pytest.mark.parametrize(
    ("regulariser", "penalty"), [(Kl(beta=0.7), kl), (L2(strength=0.3, reduction="sum"), l2)]
)
def test_the_row_of_a_step_has_the_values_of_its_formulas(
    regulariser, penalty, tmp_path, monkeypatch
):
    logged = []
    monkeypatch.setattr(SFTTrainer, "log", lambda self, logs, start=None: logged.append(logs))
    base, (model, batch) = toy(), certain_of_some()
    with torch.no_grad():
        scored = [reference(model, row) for row in batch]
        added = penalty(model, base, batch, scored)
    losses = torch.cat([one for one, _ in scored]).numpy()
    weights = torch.cat(talr_weights(scored, batch)).numpy()
    means = sorted(float(one.mean()) for one, _ in scored)
    regulariser.start(base, lambda: base)
    objective = Talr(tau_estimator="exact")
    trainer_gradient(model, batch, objective, tmp_path, 4, regulariser=regulariser, logging_steps=1)
    row = logged[0]
    expected = {
        "loss": losses.mean(),
        # A penalty that only adds to the gradient is in no loss.
        "weighted_loss": (weights * losses).mean() + (added if penalty is kl else 0),
        "hard_token_share": (np.exp(-losses) < 0.2).mean(),
        "weight_mean": weights.mean(),
        "weight_p10": np.quantile(weights, 0.1),
        "weight_p50": np.quantile(weights, 0.5),
        "weight_p90": np.quantile(weights, 0.9),
        "tau": means[7],
        "penalty": added,
        "target_tokens": len(losses),
    }
    assert 0.1 < expected["hard_token_share"] < 0.9
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_tau_is_that_of_a_model_without_dropout(tmp_path, monkeypatch):
    """Found before the step is trained, whose own passes have dropout."""
    logged = []
    monkeypatch.setattr(SFTTrainer, "log", lambda self, logs, start=None: logged.append(logs))
    model, batch = certain_of_some()
    with torch.no_grad():
        means = sorted(float(reference(model, row)[0].mean()) for row in batch)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    trainer_gradient(model, batch, Talr(tau_estimator="exact"), tmp_path, 4, logging_steps=1)
    assert logged[0]["tau"] == pytest.approx(means[7], rel=1e-4)
    assert logged[0]["loss"] != pytest.approx(sum(means) / 16, rel=1e-2)
