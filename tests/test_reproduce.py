"""`make reproduce` picks what the machine can carry, and refuses the rest with every reason."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from scripts_loaded import SCRIPTS, loaded

SCRIPT = SCRIPTS / "reproduce.py"
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="expects no GPU")


def reproduce(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def script():
    return loaded("reproduce")


def test_without_a_gpu_it_is_the_small_grid(tmp_path):
    done = reproduce("--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "profile: cpu" in done.stdout
    assert "runs: 19 to do" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_papers_grid_states_its_cost_and_is_refused_with_every_reason(tmp_path):
    """An empty cache and a hub that is not there lack everything at once."""
    work = tmp_path / "work"
    work.mkdir()
    nowhere = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = reproduce("--profile", "paper", cwd=work, **nowhere)
    assert done.returncode == 2
    assert "GPU hours" in done.stdout
    assert "qwen3-4b: a model 7.5 GiB" in done.stdout
    reasons = [line for line in done.stderr.splitlines() if line.startswith("missing: ")]
    for part in (
        *("GPU: torch sees no CUDA device", "hub cannot be reached"),
        *("weights of qwen2.5-3b", "weights of qwen3-4b", "weights of gemma3-4b"),
        *("ncbi/MedCalc-Bench-v1.0", "tasksource/esci"),
        *("google/IFEval", "openai/gsm8k", "openai/openai_humaneval"),
    ):
        assert sum(part in line for line in reasons) == 1, (part, done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(work.iterdir())


@pytest.mark.parametrize(("checkpointing", "operations"), [(False, 6), (True, 8)])
def test_training_hours_follow_from_the_operations(script, checkpointing, operations):
    """A model of a billion, a million tokens, each in 20 epochs."""
    size = script.Size(train_rows=1000, tokens_per_row=1000, domain_answers=0)
    one = replace(script.plan("qwen2.5-3b"), checkpointing=checkpointing)
    hours = 20 * operations * 1e15 / (1e15 * 0.35) / 3600
    assert script.training_hours(size, 1e9, 1e15, one) == pytest.approx(hours)


def test_keeping_nothing_takes_the_least_disk(script):
    none, best = script.disk_bytes("none"), script.disk_bytes("best")
    assert none < best == script.disk_bytes("final")
    # 54 models of each of three in bf16, those of the base, three checkpoints of the largest.
    weights = 55 * 2 * (3.086e9 + 4.022e9 + 3.880e9) + 3 * 12 * 4.022e9
    assert best == pytest.approx(weights, rel=1e-3)


def test_the_models_fit_a_gpu_of_80_gb(script):
    """With more than weights, gradient and optimizer, and l2 of the larger ones hardly."""
    for model, shape in script.SHAPES.items():
        one = script.plan(model)
        assert one.fits
        assert 16 * shape.weights < one.memory.total < 80 * 2**30


# Stands for a sweep, which lets its runs finish their step.
SWEEP = """#!/bin/sh
trap 'sleep 1; exit 130' INT TERM
echo $$ > begun.new && mv begun.new begun
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_is_waited_for(number, script, own_folder, monkeypatch, ctrl_c):
    """Ctrl-C reaches both processes, `kill` this one."""
    sweep, begun = own_folder / "sweep", own_folder / "begun"
    sweep.write_text(SWEEP)
    sweep.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(sweep))

    def stop():
        while not begun.exists():
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.kill(int(begun.read_text()), number)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    assert script.talr("sweep") == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_killed_sweep_is_not_one_that_is_done(script, own_folder, monkeypatch, capfd):
    sweep = own_folder / "sweep"
    sweep.write_text("#!/bin/sh\nkill -9 $$\n")
    sweep.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(sweep))
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--profile", "cpu"])
    assert script.main() == 137
    assert "the sweep was killed by SIGKILL" in capfd.readouterr().err
