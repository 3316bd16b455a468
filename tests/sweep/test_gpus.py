"""Which GPUs a sweep sees, and how much memory it takes them to have, by what nvidia-smi says."""

import os
from pathlib import Path

import pytest

from talr_cli.evaluation import vllm
from talr_cli.models.device_memory import TAKEN, WORKERS, free_memory
from talr_cli.models.gpu_driver import VISIBLE
from talr_cli.models.sources import ModelSource
from talr_cli.sweep import gpus, local
from talr_cli.sweep.gpus import gpu_memory, gpu_names
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.local import runs_per_gpu
from talr_cli.sweep.machine import find_obstacles
from talr_cli.sweep.plan import model_key

AMD = """WARNING: AMD GPU device(s) is/are in a low-power state.

{"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297869312"},
 "card1": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10850304"},
 "card2": {"VRAM Total Memory (B)": "536870912", "VRAM Total Used Memory (B)": "511442944"},
 "system": {"Driver version": "6.14.14"}}"""
TWO = "0, GPU-aa11, 24576, 3\n1, GPU-bb22, 81920, 40960"
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


def sizes():
    return [memory for memory, _ in gpu_memory()]


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
    assert sizes() == [size * GIB for size in memory]


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
    assert sizes() == [size * GIB for size in memory]
    found = local._environment(1, 2, "auto")
    assert int(found.pop(WORKERS)) == 1
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
    assert sizes() == memory
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
    driver(f"0, GPU-aa11, {unknown}, {unknown}")
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


def test_runs_that_share_a_card_share_what_others_leave_of_it(driver, monkeypatch):
    """A stranger holds 40 of 80 GiB: the first of two runs would else take all that is left."""
    driver(TWO)
    three = [local._environment(number, 3, "auto") for number in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in three] == ["0", "1", "0"]
    assert [one[TAKEN] for one in three] == [str(3 * 2**20), str(40 * GIB), str(3 * 2**20)]
    assert TAKEN not in local._environment(1, 2, "auto")  # it alone is on its card
    for name in (TAKEN, WORKERS):
        monkeypatch.setenv(name, three[1][name])
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (40 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 0)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 0)
    assert free_memory("cuda") == pytest.approx(0.92 * 20 * GIB)
    assert vllm._share_of_gpu() == pytest.approx(0.9 * 20 / 80)
    grid = expand_grid(["model=tiny", "method=sft", "lr=1e-5"], None)
    known = {model_key(one.config): ModelSource(Path(), "x", "x") for one in grid}
    said = "other processes hold 40.0 GiB of a GPU's 80.0 GiB"
    notes = [find_obstacles(grid, known, place)[1] for place in ("local", "slurm")]
    assert [said in one for one in notes] == [True, False]


def test_a_driver_that_does_not_answer_is_no_gpu(driver, tmp_path, monkeypatch):
    driver(TWO)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(gpus, "TIMEOUT", 0.1)
    assert gpu_names() == []


def test_cores_are_shared_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert local._environment(0, 4, "cpu")["OMP_NUM_THREADS"] == "2"
