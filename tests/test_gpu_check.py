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


def test_what_has_no_fixed_order_is_measured_in_any_and_said_to_be(check):
    from talr_cli.training.determinism import NoFixedOrderError

    making = importlib.import_module("gpu.making")

    def measure(typed):
        if making.ANY_ORDER not in typed:
            raise NoFixedOrderError("cumsum adds up in no fixed order on a GPU")
        return {"s_per_step": 1.0}

    found = making.in_some_order(measure, ("method=sft",))
    assert found["s_per_step"] == 1.0
    assert check.is_bad(found)


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
    given = SimpleNamespace(out=options.out, small=True, device="cpu", methods="", model=None)
    check.begin("env", check.SECTIONS["env"], given, time.monotonic() + 60)
    found = lines(options)
    monkeypatch.setattr(check, "command", lambda name: [sys.executable, "-c", "1 / 0"])
    check.begin("env", check.SECTIONS["env"], given, time.monotonic() + 60)  # is not started
    assert lines(options) == found
    first, second, third, fourth = found
    assert first["name"] == "first"
    assert (second["name"], second["exit"]) == ("second", 9)
    assert "illegal memory access" in third["error"]
    assert fourth["value"] == 4


def test_a_line_that_was_cut_is_none_and_the_next_one_stands_alone(check, options):
    """A process that is killed while it writes."""
    file = options.out / "lines.jsonl"
    file.write_text('{"section": "one", "name": "good", "value": 1}\n{"section": "one", "na')
    measured = check.Lines(options.out, "one")
    assert [line["name"] for line in measured.read()] == ["good"]
    measured.measure("next", lambda: {"value": 2})
    assert [line.get("value") for line in measured.read()] == [1, 2]


STEPS = {
    "sft 1 row": {"s_per_step": 1.0, "mfu": 0.47, "peak_gib": 55.0, "planned_gib": 50.0},
    "talr 1 row": {"s_per_step": 1.02, "peak_gib": 60.0, "planned_gib": 50.0},
    "trl nll 1 row": {"s_per_step": 0.9, "mfu": 0.5, "peak_gib": 55.0},
    "sft 1 row, layers again": {"s_per_step": 1.7},
    "l2 1 row, layers again": {"s_per_step": 1.9},
    "kl 1 row, layers again": {"error": "OutOfMemoryError: CUDA | out of memory"},
}


def test_the_page_has_every_bar_and_expectation_beside_what_was_found(check, options):
    env, resume = check.Lines(options.out, "env"), check.Lines(options.out, "resume")
    env.add("gpu", gpu="NVIDIA H100", gib=79.1)
    env.add("versions", torch="2.13.0")
    for name, values in STEPS.items():
        check.Lines(options.out, "steps").add(name, **values)
    check.Lines(options.out, "numerics").add("sft bf16", verdict="ok")
    resume.add("killed and gone on with: talr", same_bits=True, deterministic=True)
    resume.add("killed and gone on with: talr, any order", same_bits=False, deterministic=False)
    assert not any(map(check.is_bad, resume.read()[-2:]))
    found = check.page(resume.read(), list(check.SECTIONS)).splitlines()

    def row(beginning):
        (one,) = (line for line in found if line.startswith(f"| {beginning}"))
        return [cell.strip() for cell in one.strip("|").split(" | ")][1:]

    assert "NVIDIA H100, 79.1 GiB. torch 2.13.0." in found
    assert row("gradients")[1].startswith("1 of 1 within, not measured: talr, dft")
    assert row("gradients")[2] == "so far"
    assert row("talr against sft") == ["1.03 at most", "1.020", "met"]
    assert row("sft by default against TRL") == ["1.0 at most", "1.111", "**missed**"]
    assert row("sft against TRL's nll, any order | 1")[1] == "not measured"
    assert row("sft at 3B, share") == ["0.45", "0.470 (sft 1 row)", "met"]
    assert row("killed and gone on with |")[1:] == ["talr: yes", "met"]
    assert row("peak against")[1:] == ["20 % off at most (talr 1 row, of 2)", "**missed**"]
    assert row("sft at 3B, 1 row") == ["1.6 to 1.9 s", "1.7 s", "as expected"]
    assert row("`regulariser=l2`") == ["0.04 to 0.12 s", "0.2 s", "**otherwise**"]
    assert row("`regulariser=kl` takes")[1] == "not measured"
    assert "OutOfMemoryError: CUDA \\| out of memory" in row("kl 1 row")
    assert "`study`: not measured." in found


def test_a_page_of_nothing_says_so(check):
    found = check.page([], list(check.SECTIONS))
    assert "No GPU" in found
    assert "| met |" not in found
    assert "missed" not in found


def test_transformers_ways_answer_as_our_own_loop_does(check):
    """To their budgets, and to an end that comes before."""
    import torch
    from small_models import made

    from talr_cli.evaluation.generation import Request

    answering = importlib.import_module("gpu.answering")
    model, end = made("qwen3"), 2
    draw = torch.Generator().manual_seed(0)
    asked = [
        Request(tuple(torch.randint(3, 60, (length,), generator=draw).tolist()), budget)
        for length, budget in ((5, 6), (9, 2), (3, 8), (7, 4))
    ]
    longest = max(answering.own_loop(model, asked, (end,)), key=len)
    for ends in ((end,), (end, longest[len(longest) // 2])):
        own = answering.own_loop(model, asked, ends)
        assert sum(map(len, own)) < sum(one.max_new_tokens for one in asked) or len(ends) == 1
        for name, way in answering.ways("cpu").items():
            if name != "continuous batching":  # seconds; `test_all_sections_run` has it
                assert way(model, asked, ends) == own, name


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
    alike = {line["name"]: line["same_answers"] for line in found if "same_answers" in line}
    assert len(alike) == 4
    assert set(alike.values()) == {1.0}
    written = (tmp_path / "page.md").read_text()
    assert "| killed and gone on with | the same bits | talr: yes | met |" in written
