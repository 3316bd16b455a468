"""A GPU that torch cannot use is not passed over in silence; torch's answers are made up."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch

from talr_cli.errors import UserError
from talr_cli.models import gpu_driver
from talr_cli.models.loading import choose_device
from talr_cli.sweep import machine

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver"
)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A machine with the driver of a GPU that torch, built for CUDA, says it cannot use."""

    def init():
        raise RuntimeError(TOO_OLD)

    file = tmp_path / "nvidiactl"
    file.touch()
    monkeypatch.setattr(gpu_driver, "DRIVERS", (str(file),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu_driver.unusable_gpu.cache_clear()
    yield file
    gpu_driver.unusable_gpu.cache_clear()


def warnings_of(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_auto_takes_the_cpu_and_says_why(driver, caplog):
    assert choose_device("auto") == "cpu"
    (said,) = warnings_of(caplog)
    assert TOO_OLD in said
    with pytest.raises(UserError, match=r"device=cuda, but torch .* is too old"):
        choose_device("cuda")


def test_a_job_that_was_given_a_gpu_does_not_take_the_cpu(driver, monkeypatch):
    """As the runs of a sweep whose GPU is lost in the night."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match=r"CUDA_VISIBLE_DEVICES=1, but .* too old .*; device=cpu"):
        choose_device("auto")
    assert choose_device("cpu") == "cpu"


def test_a_torch_for_cpus_is_named(driver, monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    choose_device("auto")
    assert "is built for CPUs only" in warnings_of(caplog)[0]


@pytest.mark.parametrize(
    ("built", "card", "runs"),
    [
        ("sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", (7, 0), False),  # a V100, by PyPI's torch
        ("sm_70 sm_75 sm_80 sm_86 sm_90", (7, 0), True),
        ("sm_75 sm_80 sm_86 sm_90", (8, 9), True),  # code of an earlier card of its generation
        ("sm_75 sm_80 sm_86 sm_90", (8, 0), True),
        ("sm_86 sm_90a", (8, 0), False),
        ("sm_50 sm_80 sm_90a", (12, 0), False),
        ("sm_80 compute_90", (12, 0), True),
        ("sm_80 compute_90", (7, 5), False),
        ("", (7, 0), True),  # unknown
    ],
)
def test_a_torch_without_code_for_the_card_is_named_at_once(
    driver, monkeypatch, caplog, built, card, runs
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", built.split)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla V100-SXM2-32GB")
    if runs:
        assert choose_device("auto") == choose_device("cuda") == "cuda"
        assert warnings_of(caplog) == []
        return
    assert choose_device("auto") == "cpu"
    named = f"no code for Tesla V100-SXM2-32GB \\(sm_{card[0]}{card[1]}\\), only for {built[:5]}"
    (said,) = warnings_of(caplog)
    assert re.search(named, said)
    with pytest.raises(UserError, match=f"device=cuda, but torch .* {named}"):
        choose_device("cuda")
    assert machine._check_gpu().state == "problem"


@pytest.mark.parametrize("why", ["no driver", "hidden", "asked for"])
def test_nothing_is_said_where_no_gpu_is_meant(driver, why, monkeypatch, caplog):
    if why == "no driver":
        driver.unlink()
    if why == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("cpu" if why == "asked for" else "auto") == "cpu"
    assert warnings_of(caplog) == []


def test_doctor_and_the_plan_of_a_sweep_say_it(driver, monkeypatch):
    check = machine._check_gpu()
    assert check.state == "problem"
    assert TOO_OLD in check.detail
    monkeypatch.setattr(machine, "_missing_downloads", lambda *args: [])
    monkeypatch.setattr(machine, "gpu_names", lambda: [])
    monkeypatch.setattr(machine, "check_hub", lambda: SimpleNamespace(state="ok"))

    def obstacles(device):
        config = SimpleNamespace(
            device=device, eval=False, distributed=SimpleNamespace(processes=None)
        )
        return machine.find_obstacles([SimpleNamespace(config=config)], {}, "local")

    certain, notes = obstacles("auto")
    assert certain == []
    assert TOO_OLD in notes[0]
    assert TOO_OLD in obstacles("cuda")[0][0]
    monkeypatch.setattr(machine, "gpu_names", lambda: ["0"])  # each run will be given it
    certain, notes = obstacles("auto")
    assert TOO_OLD in certain[0]
    assert notes == []
    assert obstacles("cpu") == ([], [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    gpu_driver.unusable_gpu.cache_clear()
    assert machine._check_gpu().detail == "CUDA_VISIBLE_DEVICES=-1 hides it: runs use the CPU"
