"""A run that makes no sense any more is stopped in the step in which that is seen."""

import math

import pytest
from transformers import TrainerControl, TrainerState

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker
from talr_cli.training.callbacks import DivergedError, RecordSteps

UNIFORM = math.log(100)


def stopped_at(folder, losses, name="loss"):
    """The step at which a run with these losses is stopped; None if it is not."""
    recorder = RecordSteps(RunDirectory(folder), Tracker(), vocabulary=100)
    state = TrainerState()
    for step, loss in enumerate(losses, start=1):
        state.global_step = step
        try:
            recorder.on_log(None, state, TrainerControl(), logs={name: loss, "lr": 1e-6})
        except DivergedError as error:
            message = str(error)
            assert f"step {step}" in message
            assert len(RunDirectory(folder).read_metrics()) == step, "the step itself is recorded"
            return step
    return None


@pytest.mark.parametrize("name", ["loss", "penalty", "weighted_loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_or_infinity_stops_the_run_at_once(tmp_path, name, value):
    assert stopped_at(tmp_path, [1.0, 2.0, value, 1.0], name) == 3


@pytest.mark.parametrize("more", [{}, {"loss_scale": 65536.0}])
def test_in_fp16_the_precision_is_named_as_a_cause(tmp_path, more):
    recorder = RecordSteps(RunDirectory(tmp_path), Tracker(), vocabulary=100)
    with pytest.raises(DivergedError, match="loss is nan at step 0") as error:
        recorder.on_log(None, TrainerState(), TrainerControl(), logs={"loss": math.nan, **more})
    assert ("trainer.precision=fp32" in str(error.value)) == bool(more)


def test_three_steps_in_a_row_above_the_loss_bound_stop_the_run(tmp_path):
    high = 1.6 * UNIFORM
    assert stopped_at(tmp_path, [1.0, high, high, high, high]) == 4


@pytest.mark.parametrize(
    "losses",
    [
        [1.02 * UNIFORM] * 20,  # random weights
        [1.0, 2 * UNIFORM, 2 * UNIFORM, 1.0, 2 * UNIFORM, 2 * UNIFORM, 0.5],  # short rows
        [0.5, 1.0, 2.0, 3.0, 3.5, 4.0, 4.0],  # bad, but a result
    ],
)
def test_a_run_that_only_learns_badly_is_not_stopped(tmp_path, losses):
    assert stopped_at(tmp_path, losses) is None
