"""What a GPU computes of the head, in Triton's interpreter; `make gpu-check` has it on a GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "triton_head.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_of_a_gpu_compute_what_torch_computes_on_a_cpu():
    made = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(made.stdout.splitlines()[-1])  # W&B may say something before
    assert len(found) == 8
    for name, distances in found.items():
        half = name.endswith("bf16")
        for figure, off in distances["torch"].items():
            # A gradient is rounded to bf16 in each tile, and the interpreter cuts instead.
            least = 2e-2 if half and figure.startswith("gradient") else 1e-5
            assert off < least, (name, figure, off)
        for figure, off in distances["formula"].items():
            assert off < (3e-2 if half else 1e-5), (name, figure, off)
