"""trainer.deterministic: what is switched while a training lasts, and what is said where it cannot.

What the switches do is CUDA's; here a CPU takes its place.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from optimizer_step import OBJECTIVES, rows, toy, trainer_gradient
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import set_seed

from talr_cli.config import composition
from talr_cli.methods.regularisers import L2, Kl
from talr_cli.run.make import make_by_training
from talr_cli.run.prepare import prepare
from talr_cli.tracking.base import Tracker
from talr_cli.training import determinism
from talr_cli.training.determinism import deterministic_sums
from talr_cli.training.trainer import MethodTrainer

OFF, STRICT = (False, False, True, None), (True, False, False, "1")


def switches():
    """(on, warns only, memory filled, the flash packages' variable)."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get(determinism.FLASH),
    )


@pytest.fixture
def cpu_as_gpu(monkeypatch):
    monkeypatch.delenv(determinism.FLASH, raising=False)
    monkeypatch.setattr(determinism, "DEVICES", ("cuda", "cpu"))


def prepared(folder, *typed):
    common = ["model=tiny", "logger=none", "dataset.train_rows=4", "device=cpu",
              "trainer.max_steps=2", f"runs_dir={folder}"]  # fmt: skip
    return prepare(composition.load("train", [*common, *typed]))


def trained(folder, *typed):
    run = prepared(folder, *typed)
    with run.directory.lock():
        run.directory.prepare({}, [], run.identity)
        make_by_training()(run, Tracker())
    return run


@pytest.mark.usefixtures("cpu_as_gpu")
def test_deterministic_sums_are_on_in_every_step_and_off_after_training(tmp_path, monkeypatch):
    seen, step = [], MethodTrainer.training_step

    def watched(self, *args, **kwargs):
        seen.append(switches())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MethodTrainer, "training_step", watched)
    run = trained(tmp_path)
    assert run.identity == prepared(tmp_path, "trainer.deterministic=false").identity
    assert set(seen) == {STRICT}
    assert switches() == OFF


def test_switches_stay_off_on_a_cpu_and_with_deterministic_false(monkeypatch):
    with deterministic_sums(True, toy(), "cpu"):
        assert switches() == OFF
    monkeypatch.setattr(determinism, "DEVICES", ("cpu",))
    with deterministic_sums(False, toy(), "cpu"):
        assert switches() == OFF


@pytest.mark.usefixtures("cpu_as_gpu")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_switches_are_restored_after_an_exception(error):
    @deterministic_sums(True, toy(), "cpu")
    def step():
        set_seed(3)  # as transformers does before the first step: it leaves the switch as it is
        assert switches() == STRICT
        raise error("of a step")

    with pytest.raises(error):
        step()
    assert switches() == OFF


@pytest.mark.usefixtures("cpu_as_gpu")
def test_switches_that_the_user_had_on_are_restored(monkeypatch):
    monkeypatch.setenv(determinism.FLASH, "0")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic_sums(True, toy(), "cpu"):
            assert switches() == STRICT
        assert switches() == (True, True, True, "0")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("cpu_as_gpu")
def test_an_operation_without_a_fixed_order_restarts_the_training_without_one(
    tmp_path, monkeypatch, caplog
):
    """It begins again without one; by an operation that has no such form on a CPU either."""
    seen, step = [], MethodTrainer.training_step

    def with_put(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        seen.append(switches())
        if len(seen) > 1:  # a step is recorded already when it fails, and the schedule knows two
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        return loss

    monkeypatch.setattr(MethodTrainer, "training_step", with_put)
    begun_again, plain = tmp_path / "begun-again", tmp_path / "plain"
    typed = ("schedule=finch", "trainer.checkpoint_every_epoch=false")
    trained(begun_again, *typed)
    assert seen == [STRICT, STRICT, OFF, OFF]
    assert "put_ adds up in no fixed order on a GPU" in caplog.text
    trained(plain, *typed, "trainer.deterministic=false")
    (one,), (other,) = (
        list(folder.rglob("model/model.safetensors")) for folder in (begun_again, plain)
    )
    assert one.read_bytes() == other.read_bytes()
    assert [row["step"] for row in map(json.loads, metrics(begun_again))] == [1, 2]


def metrics(folder):
    return next(folder.rglob("metrics.jsonl")).read_text().splitlines()


@pytest.mark.usefixtures("cpu_as_gpu")
@pytest.mark.parametrize("ruled_out_by", ["the model", "the process"])
def test_a_warning_says_when_a_fixed_order_is_ruled_out(ruled_out_by, monkeypatch, caplog):
    model = toy()
    if ruled_out_by == "the model":
        monkeypatch.setattr(type(model), "_is_stateful", True)
    else:

        def refused(self, other):
            raise RuntimeError("Deterministic behavior was enabled, but CUBLAS_WORKSPACE_CONFIG")

        monkeypatch.setattr(torch.Tensor, "mm", refused)
    with deterministic_sums(True, model, "cpu"):
        assert switches() == OFF
    assert "may end with other bits" in caplog.text


# CUDA's without a form of fixed order, by the documentation of torch.use_deterministic_algorithms;
# those of pictures are left out. Of `cumsum` and `histc` it is those of floats.
HAVE_NONE = (
    *("cumsum", "histc", "bincount", "put", "put_", "kthvalue", "median.dim", "nanmedian.dim"),
    *("nll_loss2d_forward", "_embedding_bag", "_ctc_loss", "scatter_reduce", "scatter_reduce_"),
)


class Operations(TorchDispatchMode):
    """Notes what a GPU would refuse."""

    def __init__(self):
        super().__init__()
        self.refused, self.count = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        of_floats = name.split(".")[0] not in ("cumsum", "histc") or args[0].is_floating_point()
        if of_floats and (name in HAVE_NONE or name.split(".")[0] in HAVE_NONE):
            self.refused.add(name)
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", [*OBJECTIVES, "l2", "kl"])
def test_no_method_needs_an_operation_that_cuda_would_refuse(method, tmp_path):
    objective, _ = OBJECTIVES.get(method, OBJECTIVES["sft"])
    regulariser = {"l2": L2, "kl": Kl}.get(method, lambda: None)()
    model = toy()
    model.set_attn_implementation("sdpa")
    if regulariser is not None:
        regulariser.start(model, toy)
    with Operations() as seen:
        trainer_gradient(model, rows(4), objective, tmp_path, micro=2, regulariser=regulariser)
    assert seen.count > 100
    assert not seen.refused


def test_an_operation_that_cuda_would_refuse_is_found():
    with Operations() as seen:
        torch.arange(3).cumsum(0)
        torch.rand(3).median()
        assert not seen.refused
        torch.rand(3).cumsum(0)
        torch.rand(3).median(0)
    assert seen.refused == {"cumsum.default", "median.dim"}


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_the_cublas_workspace_is_set_before_torch_is_imported(given):
    environment = {name: value for name, value in os.environ.items() if "CUBLAS" not in name}
    environment |= {} if given is None else {"CUBLAS_WORKSPACE_CONFIG": given}
    code = (
        "import sys, os, talr_cli\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == (given or ":4096:8")
