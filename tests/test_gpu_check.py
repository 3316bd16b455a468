"""`make gpu-check` at its small size on a CPU: the script itself runs, and finds what is wrong."""

import importlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def check(monkeypatch):
    """The script, and its sections."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def options(check, tmp_path):
    return check.Options(tmp_path, "cpu", small=True, methods=("l2",))


def lines(options):
    return [json.loads(line) for line in (options.out / "lines.jsonl").read_text().splitlines()]


def section(check, name, options):
    module, function = check.SECTIONS[name].place.split(":")
    work = getattr(importlib.import_module(f"gpu.{module}"), function)
    work(options, check.Lines(options.out, name))


def test_a_gradient_is_compared_and_a_wrong_one_is_found(check, options, monkeypatch):
    from safetensors.torch import load_file, save_file

    numerics = importlib.import_module("gpu.numerics")
    monkeypatch.setattr(numerics, "WAYS", numerics.WAYS[1:3])
    section(check, "reference", options)
    section(check, "numerics", options)
    found = [line for line in lines(options) if line["section"] == "numerics"]
    assert len(found) == 2
    assert {line["verdict"] for line in found} == {"ok"}
    assert not any(map(check.is_bad, found))
    file = options.out / "reference" / "l2.safetensors"
    save_file({name: 1.1 * one for name, one in load_file(file).items()}, file)
    (options.out / "lines.jsonl").write_text(json.dumps(lines(options)[0]) + "\n")
    section(check, "numerics", options)
    assert {line["verdict"] for line in lines(options)[1:]} == {"OFF"}
    assert all(map(check.is_bad, lines(options)[1:]))


def test_what_was_measured_is_not_measured_again_and_an_error_is_a_line(check, options):
    measured = check.Lines(options.out, "one")
    measured.measure("good", lambda: {"value": 1})
    measured.measure("good", lambda: {"value": 2})
    measured.measure("bad", lambda: 1 / 0)
    good, bad = lines(options)
    assert good["value"] == 1
    assert "ZeroDivisionError" in bad["error"]
    assert check.is_bad(bad)


DIES = """
import os, sys
from pathlib import Path
from gpu.measuring import Lines

def lose():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

lines = Lines(Path(sys.argv[1]), "env")
lines.measure("first", dict)
lines.measure("second", lambda: os._exit(9))
lines.measure("third", lose)
lines.measure("fourth", lambda: {"value": 4})
"""


def test_a_process_that_dies_is_started_again_behind_what_it_died_in(check, options, monkeypatch):
    monkeypatch.setattr(
        check, "command", lambda name: [sys.executable, "-c", DIES, str(options.out)]
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    given = SimpleNamespace(out=options.out, small=True)
    check.begin("env", check.SECTIONS["env"], given, time.monotonic() + 60)
    first, second, third, fourth = lines(options)
    assert first["name"] == "first"
    assert (second["name"], second["exit"]) == ("second", 9)
    assert "illegal memory access" in third["error"]
    assert fourth["value"] == 4


@pytest.mark.usefixtures("ctrl_c")
def test_an_interruption_ends_what_was_started(check):
    process = subprocess.Popen(
        [sys.executable, "-uc", "import time; print(1); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    threading.Timer(1.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        check.watch(process, 60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_all_sections_run(tmp_path):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--small", "--device", "cpu"]
    command += ["--out", str(tmp_path), "--budget", "1500", "--methods", "sft,talr,trl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    log = (tmp_path / "log.txt").read_text()[-3000:]
    assert done.returncode == 0, done.stdout + log
    found = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    sections = {line["section"] for line in found}
    assert {"env", "numerics", "steps", "generate", "resume", "study", "vllm"} <= sections
    assert any(line.get("same_bits") for line in found)
