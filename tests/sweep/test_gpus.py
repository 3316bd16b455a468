"""Which GPUs a sweep sees, and how much memory it takes them to have, by what nvidia-smi says."""

import os

import pytest

from talr_cli.models.device_memory import WORKERS
from talr_cli.models.gpu_driver import VISIBLE
from talr_cli.sweep import gpus, local
from talr_cli.sweep.gpus import gpu_memory, gpu_names
from talr_cli.sweep.local import runs_per_gpu

AMD = """WARNING: AMD GPU device(s) is/are in a low-power state.

{"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297869312"},
 "card1": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10850304"},
 "card2": {"VRAM Total Memory (B)": "536870912", "VRAM Total Used Memory (B)": "511442944"},
 "system": {"Driver version": "6.14.14"}}"""
TWO = "0, GPU-aa11, 24576\n1, GPU-bb22, 81920"
GIB = 2**30


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an nvidia-smi that prints so on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)

    def put(listing, command="nvidia-smi"):
        file = tmp_path / command
        file.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
        file.chmod(0o755)
        gpus._answer.cache_clear()

    yield put
    gpus._answer.cache_clear()


@pytest.mark.parametrize(
    ("visible", "names", "memory"),
    [
        (None, ["0", "1"], [24, 80]),
        ("1", ["1"], []),  # by CUDA's own numbers, the fastest first: it may be either
        ("GPU-bb22,GPU-aa11", ["GPU-bb22", "GPU-aa11"], [80, 24]),
        ("GPU-b", ["GPU-b"], [80]),  # CUDA takes the beginning of a UUID
        ("MIG-cc33", ["MIG-cc33"], []),  # a part of a GPU: not listed
        ("", [], []),
        ("-1", [], []),
        ("0,-1,1", ["0"], []),  # CUDA's guide: what follows an index that is none is invisible
        ("NoDevFiles", [], []),  # SLURM's word for no GPU
    ],
)
def test_gpus_are_those_that_cuda_would_show(driver, monkeypatch, visible, names, memory):
    driver(TWO)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_names() == names
    assert gpu_memory() == [size * GIB for size in memory]


@pytest.mark.parametrize(
    ("cards", "variables", "given", "memory"),
    [
        # nvidia-smi's numbers, by the place on the bus, are CUDA's only if CUDA is told so.
        (TWO, {}, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [24, 80]),
        (TWO, {"CUDA_VISIBLE_DEVICES": "1,0"}, {"CUDA_VISIBLE_DEVICES": "0"}, []),
        (
            TWO,
            {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            {"CUDA_VISIBLE_DEVICES": "0"},
            [80, 24],
        ),
        (TWO.replace("24576", "81920"), {"CUDA_VISIBLE_DEVICES": "1,0"}, None, [80, 80]),
    ],
)
def test_cards_of_two_kinds_are_not_mixed_up(driver, monkeypatch, cards, variables, given, memory):
    driver(cards)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert gpu_memory() == [size * GIB for size in memory]
    found = local._environment(1, 2, "auto")
    del found[WORKERS]
    assert given is None or {**variables, **found} == {**variables, **given}
    # A single run gets all of them, and takes the one that CUDA has first.
    assert "CUDA_DEVICE_ORDER" not in local._environment(0, 1, "auto")


@pytest.mark.parametrize(
    ("variables", "names", "memory"),
    [
        ({}, ["0", "1", "2"], [206141652992, 68702699520]),  # the last is part of a processor
        ({"HIP_VISIBLE_DEVICES": "1"}, ["1"], [68702699520]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["1"], [68702699520]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, ["0"], [206141652992]),
        ({"ROCR_VISIBLE_DEVICES": "1,0"}, ["0", "1"], [68702699520, 206141652992]),
        ({"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "0"}, ["0"], [68702699520]),
        ({"HIP_VISIBLE_DEVICES": ""}, [], []),
    ],
)
def test_gpus_of_amd_are_found(driver, monkeypatch, variables, names, memory):
    driver(AMD, "rocm-smi")
    for name, visible in variables.items():
        monkeypatch.setenv(name, visible)
    assert gpu_names() == names
    assert gpu_memory() == memory
    shares = [local._environment(number, 2, "auto") for number in range(2)]
    if names:
        given = [one["HIP_VISIBLE_DEVICES"].split(",") for one in shares]
        assert sorted({name for share in given for name in share}) == names


def test_the_gpus_of_nvidia_come_first(driver):
    driver(AMD, "rocm-smi")
    driver(TWO)
    assert gpu_names() == ["0", "1"]
    assert "HIP_VISIBLE_DEVICES" not in local._environment(0, 2, "auto")


@pytest.mark.parametrize("unknown", ["[N/A]", "[Not Supported]"])
def test_a_gpu_that_shares_the_memory_of_its_machine_is_one(driver, unknown):
    driver(f"0, GPU-aa11, {unknown}")
    assert gpu_names() == ["0"]
    assert gpu_memory() == []


def test_lines_that_name_no_gpu_are_left_out(driver):
    driver(f"Warning: persistence mode is off\n{TWO}")
    assert gpu_names() == ["0", "1"]


def test_workers_share_the_machine_where_no_gpu_is_visible(driver, monkeypatch):
    driver(TWO)
    assert runs_per_gpu(4, "auto") == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert runs_per_gpu(4, "auto") == 4


def test_a_driver_that_does_not_answer_is_no_gpu(driver, tmp_path, monkeypatch):
    driver(TWO)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(gpus, "TIMEOUT", 0.1)
    assert gpu_names() == []


def test_cores_are_shared_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert local._environment(0, 4, "cpu")["OMP_NUM_THREADS"] == "2"
