"""tau of each micro-batch over several steps: of which sequences it is the median."""

from types import SimpleNamespace

import pytest
import torch

from talr_cli.methods.base import TargetTokens
from talr_cli.methods.objectives import Talr
from talr_cli.training.temperature import StepTemperature

ALONE = SimpleNamespace(num_processes=1, device="cpu")
# Mean losses of the sequences of each micro-batch, step by step; the third step is not cut up.
STEPS = [
    [(1.0, 7.0), (3.0, 9.0)],
    [(2.0, 8.0), (6.0,)],
    [(0.5, 0.25, 4.0)],
    [(5.0, 11.0), (10.0, 12.0)],
    [(1.5,), (2.5,)],
]


def targets(means):
    """Of each sequence two targets."""
    losses = torch.tensor([loss for mean in means for loss in (mean - 0.2, mean + 0.2)])
    return TargetTokens(-losses, torch.arange(len(means)).repeat_interleave(2))


def lower_median(step):
    means = sorted(mean for batch in step for mean in batch)
    return means[(len(means) - 1) // 2]


@pytest.mark.parametrize("goes_on", [False, True], ids=["at-once", "from-checkpoints"])
@pytest.mark.parametrize("estimator", ["lagged", "exact"])
def test_tau_is_the_median_of_the_step_or_of_the_one_before_that_was_cut_up(estimator, goes_on):
    own = [lower_median(step) for step in STEPS]
    expected = own if estimator == "exact" else [own[0], own[0], own[2], own[1], own[3]]
    temperature, scored = StepTemperature(Talr(tau_estimator=estimator), ALONE), []
    for step, tau in zip(STEPS, expected, strict=True):
        batches = [targets(batch) for batch in step]
        temperature.start_step(len(batches), lambda one, b=batches: scored.append(b) or b[one])
        found = [float(temperature.next_tau(tokens)) for tokens in batches]
        assert found == pytest.approx([tau] * len(batches))
        if goes_on:
            state = temperature.state()
            temperature = StepTemperature(Talr(tau_estimator=estimator), ALONE)
            temperature.restore(state)
    # A pass more for each micro-batch, but for a step that is not cut up.
    assert len(scored) == (8 if estimator == "exact" else 2)
