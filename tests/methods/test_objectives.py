"""Each objective against a float64 reference written from its formula."""

import math
import statistics

import numpy as np
import pytest
import torch
from conftest import config
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.errors import UserError
from talr_cli.methods.base import Step, TargetTokens
from talr_cli.methods.objectives import (
    Deft,
    Dft,
    Eaft,
    Flow,
    InfoSft,
    Sft,
    Stm,
    TailSft,
    Talr,
)

losses = st.floats(min_value=0.0, max_value=1e4, allow_nan=False)
batches = st.lists(st.lists(losses, min_size=1, max_size=9), min_size=1, max_size=6)


def targets(batch):
    """TargetTokens of ragged per-sequence losses."""
    flat = [loss for row in batch for loss in row]
    sequence = [number for number, row in enumerate(batch) for _ in row]
    return TargetTokens(-torch.tensor(flat, dtype=torch.float64), torch.tensor(sequence))


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


@given(batches)
def test_talr_weights_follow_the_closed_form(batch):
    objective, tokens = Talr(), targets(batch)
    tau = objective.temperature(tokens.sequence_losses())
    expected_tau = lower_median([float(np.mean(row)) for row in batch])
    assert float(tau) == pytest.approx(expected_tau, rel=1e-12, abs=1e-12)
    reference = [
        max(math.exp(-loss / max(expected_tau, 1e-6)), 0.01) for row in batch for loss in row
    ]
    np.testing.assert_allclose(objective.weights(tokens, tau).numpy(), reference, rtol=1e-9)


@given(batches)
def test_talr_weights_are_finite_and_bounded(batch):
    objective, tokens = Talr(), targets(batch)
    weights = objective.weights(tokens, objective.temperature(tokens.sequence_losses()))
    assert torch.isfinite(weights).all()
    assert ((weights >= 0.01) & (weights <= 1)).all()


@given(batches)
def test_talr_takes_the_configured_median(batch):
    means = targets(batch).sequence_losses()
    rows = [float(np.mean(row)) for row in batch]
    lower, mean = Talr(median="lower"), Talr(median="mean")
    assert float(lower.temperature(means)) == pytest.approx(lower_median(rows), rel=1e-12)
    assert float(mean.temperature(means)) == pytest.approx(statistics.median(rows), rel=1e-9)


def test_talr_minimises_the_entropy_regularised_weighted_loss():
    """p^(1/tau) is proportional to argmin over the simplex of sum w l + tau sum w log w."""
    loss = torch.tensor([0.1, 0.7, 2.0, 5.0], dtype=torch.float64)
    tau = 1.3
    weights = Talr(tau=tau, w_min=0.0).weights(TargetTokens(-loss, torch.zeros(4).long()), None)
    closed_form = weights / weights.sum()
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        w = logits.softmax(0)
        value = (w * loss).sum() + tau * (w * w.log()).sum()
        value.backward()
        return value

    optimizer.step(objective)
    torch.testing.assert_close(logits.softmax(0).detach(), closed_form, rtol=1e-3, atol=1e-5)


@given(batches)
def test_talr_with_infinite_temperature_is_sft(batch):
    tokens = targets(batch)
    talr = Talr(tau=math.inf).weights(tokens, None)
    assert torch.equal(talr, Sft().weights(tokens, None))


@given(batches)
def test_dft_is_the_probability_and_talr_at_temperature_one_without_a_floor(batch):
    """DFT (arXiv 2508.05629) weighs each token by its probability."""
    tokens = targets(batch)
    weights = Dft().weights(tokens, None)
    np.testing.assert_allclose(weights.numpy(), np.exp(tokens.log_probs.numpy()), rtol=1e-12)
    assert torch.equal(weights, Talr(tau=1.0, w_min=0.0).weights(tokens, None))


@given(batches, st.data())
def test_eaft_deft_and_infosft_weights_follow_their_formulas(batch, data):
    """p = 1 and p near 0 included: weights stay finite, and are what the formula's limit is."""
    tokens = targets(batch)
    n = len(tokens.log_probs)
    # Rounding may leave the entropy of a sure prediction just below 0.
    entropy = data.draw(st.lists(st.floats(-1e-6, math.log(20)), min_size=n, max_size=n))
    squares = data.draw(st.lists(st.floats(1e-5, 1), min_size=n, max_size=n))
    tokens.topk_entropy = torch.tensor(entropy, dtype=torch.float64)
    tokens.log_sum_sq_probs = torch.tensor(squares, dtype=torch.float64).log()
    flat = np.array([loss for row in batch for loss in row])
    p = np.exp(-flat)
    np.testing.assert_allclose(
        Eaft(exponent=1.5).weights(tokens, None).numpy(),
        np.array([max(0.0, one) / math.log(20) for one in entropy]) ** 1.5,
    )
    sharpened = np.exp(-flat.astype(np.longdouble)) ** squares
    np.testing.assert_allclose(
        Deft().weights(tokens, None).numpy(), sharpened, rtol=1e-9, atol=1e-300
    )
    infosft = InfoSft().weights(tokens, None).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = p * np.maximum(0, 1 - (np.log(p / (1 - p))) / math.log(0.93 / 0.07))
    expected[p == 0] = 0.0
    np.testing.assert_allclose(infosft, expected, rtol=1e-6, atol=1e-12)


@given(batches)
def test_flow_weighs_rows_by_their_base_loss(batch):
    base = targets(batch).sequence_losses()
    means = [float(np.mean(row)) for row in batch]
    tau = max(statistics.median(means), 1e-6)
    weights = Flow().sequence_weights(base).numpy()
    np.testing.assert_allclose(weights, np.exp(-np.array(means) / tau), rtol=1e-9, atol=1e-300)


@given(batches, st.floats(1.01, 1e3))
def test_stm_keeps_targets_up_to_the_perplexity_threshold(batch, threshold):
    flat = torch.tensor([loss for row in batch for loss in row], dtype=torch.float64)
    kept = Stm(threshold=threshold).target_mask(flat).tolist()
    with np.errstate(over="ignore"):
        perplexities = np.exp(flat.numpy())
    near = np.isclose(perplexities, threshold, rtol=1e-12)
    assert all((kept == (perplexities <= threshold)) | near)
    assert Stm(threshold=math.e).target_mask(torch.tensor([1.0, 1.0001])).tolist() == [True, False]


@given(st.integers(1, 12), st.floats(0, 0.99), st.data())
def test_tailsft_leaves_out_the_rows_that_have_fallen_most(count, fraction, data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    fallen = data.draw(st.permutations(range(count)))  # nats; no two alike
    now = [[2.0 + 0.1 * place for place in range(length)] for length in lengths]
    tokens = targets(now)
    before = [loss + by for row, by in zip(now, fallen, strict=True) for loss in row]
    tokens.base_log_probs = -torch.tensor(before, dtype=torch.float64)
    objective = TailSft(fraction=fraction, schedule="static")
    ones = objective.weights(tokens, None)
    weights = objective.step_weights(ones, tokens, Step(0, 9, 0)).tolist()
    stay = sorted(range(count), key=lambda row: fallen[row])
    stay = stay[: count - min(round(count * fraction), count - 1)]
    share = sum(lengths[row] for row in stay) / sum(lengths)
    reference = [(row in stay) / share for row in range(count) for _ in range(lengths[row])]
    assert weights == pytest.approx(reference)
    # weighted and divided by all targets, the loss is the mean over those that stay
    losses = [loss for row in stay for loss in now[row]]
    ours = float((torch.tensor(weights) * -tokens.log_probs).mean())
    assert ours == pytest.approx(sum(losses) / len(losses))


def test_tailsft_leaves_out_more_and_more_rows_along_the_training():
    tokens = targets([[1.0 + 0.1 * row] for row in range(10)])
    tokens.base_log_probs = torch.full((10,), -3.0, dtype=torch.float64)
    out = [
        int((TailSft().step_weights(torch.ones(10), tokens, Step(number, 11, 0)) == 0).sum())
        for number in range(11)
    ]
    assert out == [round(10 * 0.5 * number / 10) for number in range(11)]


def test_tailsft_ignores_differences_that_rounding_can_make():
    """In the first step no row has changed: which ones are left out is not left to noise."""
    one, other = (targets([[2.0 + noise * row] for row in range(6)]) for noise in (1e-6, -1e-6))
    for tokens in (one, other):
        tokens.base_log_probs = torch.full((6,), -2.0, dtype=torch.float64)
    objective, step = TailSft(schedule="static"), Step(0, 9, 0)
    expected = [0.0] * 3 + [2.0] * 3
    assert objective.step_weights(torch.ones(6), one, step).tolist() == expected
    assert objective.step_weights(torch.ones(6), other, step).tolist() == expected


@given(batches)
def test_talr_base_takes_its_weights_from_the_base_model_alone(batch):
    tokens = TargetTokens(torch.zeros(sum(map(len, batch))).double(), targets(batch).sequence)
    tokens.base_log_probs = targets(batch).log_probs
    control, talr = Talr(probabilities="base"), Talr()
    assert control.tau_estimator == "exact"  # also under accumulation
    tau = control.temperature(control.sequence_losses(tokens))
    plain = targets(batch)
    expected = talr.weights(plain, talr.temperature(plain.sequence_losses()))
    assert torch.equal(control.weights(tokens, tau), expected)


def test_talr_shuffled_gives_the_same_weights_to_other_targets():
    objective, weights = Talr(shuffle_weights=True), torch.rand(200)

    def dealt(number, seed):
        return objective.step_weights(weights, targets([[1.0] * 200]), Step(number, 9, seed))

    first = dealt(0, 0)
    assert torch.equal(first.sort().values, weights.sort().values)
    assert torch.equal(first, dealt(0, 0))
    for other in (weights, dealt(1, 0), dealt(0, 1)):
        # Of a random order one target in 200 keeps its weight.
        assert int((first == other).sum()) < 10
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.3


def test_eaft_over_the_whole_vocabulary_needs_a_scale():
    with pytest.raises(UserError, match=r"objective\.scale"):
        Eaft(top_k=None)
    assert Eaft(top_k=None, scale=3.0).outputs == ("entropy",)


@pytest.mark.parametrize("objective", [Sft(), Talr(tau=1.0), Dft(), Eaft(), InfoSft(), Deft()])
def test_weights_carry_no_gradient(objective):
    log_probs = torch.tensor([-0.5, -2.0], requires_grad=True)
    tokens = TargetTokens(log_probs, torch.tensor([0, 0]))
    tokens.topk_entropy = tokens.log_sum_sq_probs = log_probs / 2
    assert not objective.weights(tokens, None).requires_grad


def test_normalised_weights_have_mean_one():
    given, tokens = torch.tensor([0.2, 0.4, 0.9]), targets([[0.1, 3.0], [1.0]])
    objective = Talr(normalise=True, tau=2.0, w_min=0.0)
    scaled = objective.step_weights(given, tokens, Step(0, 9, 0))
    assert scaled.tolist() == pytest.approx([0.4, 0.8, 1.8])
    assert objective.step_weights(torch.zeros(3), tokens, Step(0, 9, 0)).tolist() == [0, 0, 0]


def test_sequences_without_targets_do_not_count():
    tokens = TargetTokens(-torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 4]))
    assert tokens.sequence_losses().tolist() == [2.0, 5.0]


def test_no_target_at_all_gives_no_weights():
    tokens = TargetTokens(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(tokens.sequence_losses()) == 0
    assert len(Talr(tau=1.0).weights(tokens, None)) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"tau_scope": "epoch"},
        {"tau_estimator": "guess"},
        {"median": "upper"},
        {"probabilities": "next"},
    ],
)
def test_unknown_settings_are_refused(values):
    (key, wrong), *_ = values.items()
    with pytest.raises(UserError, match=f"objective.{key}={wrong} is not one of"):
        config("train", "method=talr", f"objective.{key}={wrong}")
