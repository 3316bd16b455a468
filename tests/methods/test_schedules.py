"""The schedules: against transformers' own and a formula, killed and resumed with the same bits."""

import dataclasses
import json
import math

import pytest
import torch
from conftest import config
from faults.tiny_training import STEPS, cut_before_the_last_checkpoint, trained
from optimizer_step import OBJECTIVES, reference_gradient, rows, toy, trainer_gradient
from transformers import get_scheduler

from talr_cli.errors import UserError
from talr_cli.methods.checks import check_schedule
from talr_cli.methods.schedules import Constant, Cosine, Finch, Linear, Schedule
from talr_cli.run.identity import identity
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training.rates import StepRates


@pytest.mark.parametrize(
    ("schedule", "name"),
    [(Cosine, "cosine"), (Linear, "linear"), (Constant, "constant_with_warmup")],
)
@pytest.mark.parametrize(("warmup_share", "steps"), [(0.03, 100), (0.0, 7), (0.25, 13), (1.0, 5)])
def test_rates_equal_those_of_transformers_bit_for_bit(schedule, name, warmup_share, steps):
    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
        scheduler = make(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    ours = rates(lambda one: StepRates(one, schedule(warmup_share), steps))
    theirs = rates(
        lambda one: get_scheduler(
            name, one, num_warmup_steps=int(warmup_share * steps), num_training_steps=steps
        )
    )
    assert ours == theirs


def finch_rates(losses, lr, kappa, decay, eps):
    """As the formula is written, from the losses of all steps."""
    rates = []
    for step in range(len(losses)):
        mean = losses[0] * decay**step + sum(
            (1 - decay) * decay ** (step - other) * losses[other] for other in range(1, step + 1)
        )
        rates.append(min(kappa / (mean + eps) ** 0.5, lr))
    return rates


def test_finch_rates_follow_the_formula():
    finch, losses = Finch(), [2.5, 0.3, 4.0, 0.01, 0.002, 0.0, *[0.001] * 60]
    shares = []
    for step, loss in enumerate(losses):
        finch.observe(loss)
        shares.append(finch.share(step, len(losses)))
    expected = finch_rates(losses, 5e-5, 1e-5, 0.9, 1e-8)
    assert [5e-5 * share for share in shares] == pytest.approx(expected, rel=1e-12)
    assert shares[0] == pytest.approx(0.2 / 2.5**0.5)
    assert shares[-1] == 1


def test_finch_takes_losses_below_zero_and_nan():
    learned, diverged = Finch(), Finch()
    learned.observe(-1e-6)
    assert learned.share(0, 10) == 1
    learned.observe(4.0)
    assert learned.share(1, 10) == pytest.approx(0.2 / (0.4 - 0.9e-6) ** 0.5)
    diverged.observe(float("nan"))
    assert math.isnan(diverged.share(0, 10))  # and not the greatest rate: the run stops by it


def steps_of(run):
    lines = run.metrics.read_text().splitlines()
    return [one for one in map(json.loads, lines) if "loss" in one]


class Falling(Finch):
    """A schedule of one's own: by the loss, and by the number of the step."""

    def share(self, step, steps):
        return super().share(step, steps) * (1 - step / steps)


@pytest.mark.parametrize(
    "schedule", [Falling(rate_at_one_nat=0.5), Cosine(0.2)], ids=["a state", "none"]
)
def test_a_resumed_run_ends_with_the_same_weights(schedule, tmp_path):
    whole = RunDirectory(tmp_path / "whole")

    def make():
        return dataclasses.replace(schedule)

    model, _ = trained(whole, schedule=make())
    if isinstance(schedule, Finch):
        logged = steps_of(whole)
        losses = [one["loss"] for one in logged]
        rates = finch_rates(losses, 1e-2, 0.5e-2, 0.9, 1e-8)
        expected = [rate * (1 - step / STEPS) for step, rate in enumerate(rates)]
        assert [one["lr"] for one in logged] == pytest.approx(expected, rel=1e-6)
        assert len({*expected}) == STEPS
    cut = cut_before_the_last_checkpoint(whole, tmp_path / "cut")
    again, training = trained(cut, schedule=make())
    assert 0 < training["resumed_from_step"] < STEPS
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert [one["lr"] for one in steps_of(cut)] == [
        one["lr"] for one in steps_of(whole)[training["resumed_from_step"] :]
    ]


@pytest.mark.parametrize("micro", [16, 1])
@pytest.mark.parametrize("name", ["sft", "talr"])
def test_finch_observes_the_objectives_loss_however_the_batch_is_split(name, micro, tmp_path):
    objective, weigh = OBJECTIVES[name]
    _, expected = reference_gradient(toy(torch.float64), rows(), weigh)
    finch = Finch()
    trainer_gradient(toy(), rows(), objective, tmp_path, micro, schedule=finch)
    assert finch.state()["mean_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_method_names_its_schedule_and_the_identity_tells_them_apart():
    chosen = {
        name: config("train", f"schedule={name}") for name in ("cosine", "constant", "linear")
    }
    chosen |= {"finch": config("train", "method=finch")}
    assert [one.method for one in chosen.values()] == ["sft", "constant", "linear", "finch"]
    assert (
        config("train", "schedule=cosine", "method=talr", "schedule=finch").method == "talr+finch"
    )
    assert len({identity(one, "model") for one in chosen.values()}) == 4
    assert chosen["finch"].schedule == Finch(0.2, 0.9, 1e-8)
    assert chosen["cosine"].schedule == Cosine(0.03)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (lambda step, steps: -0.1, "gave -0.1 at step 0 of 4"),
        (lambda step, steps: float("nan"), "gave nan at step 0 of 4"),
        (lambda step, steps: None if step else 1.0, "gave None at step 1 of 4"),
        (lambda step, steps: 1 / (2 - step), "failed at step 2 of 4 with ZeroDivisionError"),
    ],
    ids=["negative", "nan", "none", "raises"],
)
def test_an_invalid_share_is_refused_before_anything_is_loaded(share, message):
    @dataclasses.dataclass
    class Own(Schedule):
        def share(self, step, steps):
            return share(step, steps)

    with pytest.raises(UserError, match=message):
        check_schedule(Own())


def test_checking_a_schedule_leaves_its_state_empty():
    finch = Finch()
    check_schedule(finch)
    assert finch.state() == {}
