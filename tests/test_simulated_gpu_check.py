"""`make gpu-check` on a simulated CUDA device: the lines of it that only CUDA reaches."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from simulated_gpu import in_process, simulated_gpu

SCRIPTS = Path(__file__).parents[1] / "scripts"
SECTIONS = ("env", "reference", "numerics", "steps", "generate")


def measured(folder):
    """The lines of these sections, at the small size, of one method."""
    sys.path.insert(0, str(SCRIPTS))
    check = importlib.import_module("gpu_check")
    numerics, steps = (importlib.import_module(f"gpu.{name}") for name in ("numerics", "steps"))
    numerics.WAYS = numerics.WAYS[:2]
    typed = ("trainer.micro_batch_size=1", "trainer.gradient_checkpointing=true")
    steps.variants = lambda: iter(
        [("talr 1 row", ("method=talr", *typed)), ("talr by default", ("method=talr",))]
    )
    options = check.Options(folder, "cuda", small=True, methods=("talr",))
    with simulated_gpu():
        for name in SECTIONS:
            module, function = check.SECTIONS[name].place.split(":")
            work = getattr(importlib.import_module(f"gpu.{module}"), function)
            work(options, check.Lines(folder, folder, name))
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    return lines, [line for line in lines if check.is_bad(line)]


@pytest.mark.slow
def test_it_measures_and_finds_nothing_wrong(tmp_path):
    lines, bad = in_process(measured, tmp_path)
    # Continuous batching has a thread of its own, in which there is no simulated device.
    assert [line for line in bad if "continuous batching" not in line["name"]] == []
    assert {line["section"] for line in lines} == {*SECTIONS}
    verdicts = [line["verdict"] for line in lines if line["section"] == "numerics"]
    # The second is of TRL's kernel for the head, for which there may be no triton.
    assert [verdicts[0], *verdicts[2:]] == ["ok"] * 3
    model, step, by_default = (line for line in lines if line["section"] == "steps")
    assert model["model"] == "small"
    assert step["host_waits"] == 2, step["where"]
    # By default what the planner takes for 70 GiB: all four rows at once.
    assert (step["passes"], by_default["passes"]) == ("1 joined, layers again", "4 joined")
