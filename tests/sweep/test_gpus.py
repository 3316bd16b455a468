"""What the driver's tool says of GPUs, in each of the forms that it has."""

import pytest

from talr_cli.sweep import gpus


@pytest.mark.parametrize(
    ("said", "visible", "names", "memory"),
    [
        ("0, 81559\n1, 40960\n", None, ["0", "1"], [81559 * 2**20, 40960 * 2**20]),
        ("0, 81559\n1, 40960\n", "1, GPU-7", ["1", "GPU-7"], [40960 * 2**20]),
        ("0, 81559\n1, 40960\n", "-1", [], []),
        ("0, 81559\n1, 40960\n", "1,-1,0", ["1"], [40960 * 2**20]),
        ("0, [N/A]\n", None, ["0"], []),  # the CPU's memory is the GPU's: GB10, Jetson
        ("No devices were found\n", None, [], []),
    ],
)
def test_gpus_are_told_by_the_driver(said, visible, names, memory, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<END\n{said}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus._driver.cache_clear()
    try:
        assert gpus.gpu_names() == names
        assert gpus.gpu_memory() == memory
    finally:
        gpus._driver.cache_clear()
