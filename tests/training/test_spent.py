"""What a training takes, on a GPU that had another one before it in the same process."""

from types import SimpleNamespace

import pytest
import torch

from talr_cli.training.spent import Meter


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
