"""What a training takes: of all ranks, and on a GPU that had another training before it."""

import time
from types import SimpleNamespace

import pytest
import torch

from talr_cli.training.spent import Meter, Spent


class Peak:
    """torch's count of a GPU's memory."""

    def __init__(self):
        self.now, self.most = 0, 0

    def take(self, size):
        self.now = size
        self.most = max(self.most, size)

    def reset(self):
        self.most = self.now


@pytest.fixture
def gpu(monkeypatch):
    peak = Peak()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak.most)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", peak.reset)
    return peak


def test_peak_memory_leaves_out_earlier_trainings(gpu):
    accelerator = SimpleNamespace(
        device=torch.device("cuda"), num_processes=1, gather=lambda values: values
    )
    gpu.take(40 * 2**30)  # by another training, and what came before this one
    gpu.take(2 * 2**30)
    meter = Meter(accelerator)
    meter.start()
    gpu.take(9 * 2**30)
    gpu.take(3 * 2**30)
    assert meter.read().peak_memory_gib == 9


def test_the_tokens_of_all_ranks_count_and_the_memory_of_the_one_with_most():
    """More than float32 could count."""
    other = torch.tensor([[2.0**24 + 1, 99.0]], dtype=torch.float64)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, gather=lambda own: torch.cat([own, other])
    )
    meter = Meter(accelerator)
    meter.restore(Spent(input_tokens=10))
    meter.input_tokens = 2**24 + 3
    assert meter.read().input_tokens == 2**25 + 14
    assert meter.read().peak_memory_gib == 99


def test_the_time_before_the_training_and_that_of_other_work_do_not_count(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter(SimpleNamespace(device=torch.device("cpu"), num_processes=1, gather=lambda x: x))
    meter.restore(Spent(seconds=1000.0))
    now = 50.0
    meter.start()
    now = 53.0
    with meter.paused():
        now = 60.0
    now = 64.0
    assert meter.read().seconds == 1007
