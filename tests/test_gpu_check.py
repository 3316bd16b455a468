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
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def check(monkeypatch):
    """The script, and its sections."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def options(check, tmp_path):
    return check.Options(tmp_path, "cpu", small=True, methods=("l2",))


def of_section(check, name, options):
    return check.Lines(options.work, options.work, name)


def lines(options):
    return [json.loads(line) for line in (options.work / "lines.jsonl").read_text().splitlines()]


def section(check, name, options):
    module, function = check.SECTIONS[name].place.split(":")
    work = getattr(importlib.import_module(f"gpu.{module}"), function)
    work(options, of_section(check, name, options))


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
    file = options.work / "reference" / "l2.safetensors"
    loss = {"loss": str(lines(options)[0]["loss"])}
    save_file({name: 1.1 * one for name, one in load_file(file).items()}, file, metadata=loss)
    (options.work / "lines.jsonl").write_text(json.dumps(lines(options)[0]) + "\n")
    section(check, "numerics", options)
    assert {line["verdict"] for line in lines(options)[1:]} == {"OFF"}
    assert all(map(check.is_bad, lines(options)[1:]))


def test_what_was_measured_is_not_measured_again_and_an_error_is_a_line(check, options):
    measured = of_section(check, "one", options)
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


def test_a_rate_is_of_the_steps_that_were_timed_which_differ_in_their_tokens(check):
    steps = importlib.import_module("gpu.steps")
    # Four steps of two passes: (tokens, those with padding, targets, longest row).
    tokens = (900, 900, 900, 900, 100, 50, 30, 20)
    seen = steps.Seen(seconds=[3.0, 1.0], passes=[(n, 2 * n, n // 10, n) for n in tokens])
    timed = seen.timed_steps(4)
    assert timed == [(150, 15, 3.0), (50, 5, 1.0)]
    # A head of 3 x 2 and 4e11 other weights: 6 operations for each of the latter and a token.
    of_head, others = torch.empty(3, 2, device="meta"), torch.empty(4 * 10**11, device="meta")
    trained = [one.requires_grad_() for one in (of_head, others)]
    settings = {"vocab_size": 3, "hidden_size": 2}
    found = steps._rates(timed, settings, trained)
    assert (found["tokens_per_second"], found["tflops"], found["s_per_step"]) == (50, 120.0, 2.0)
    frozen = steps._rates(timed, settings, [of_head, others.detach()])
    assert frozen["tflops"] == 80.0


def test_the_kernels_of_a_step_are_listed_with_their_share_of_it(check, options):
    steps, making = (importlib.import_module(f"gpu.{name}") for name in ("steps", "making"))
    lines = of_section(check, "steps", options)
    typed = ("method=sft", "trainer.micro_batch_size=2", "trainer.gradient_checkpointing=false")
    lines.measure(steps.PROFILE, lambda: steps._measure(options, making.SMALL, True, typed))
    (found,) = check.lines_in(options.work)
    calls = {name: count for name, count, _ in found["kernels"]}
    # Seven matrices, three with a bias, in each of two layers, in two passes: forward, and twice
    # backward.
    assert calls["aten::addmm"] == 2 * 2 * 3
    assert calls["aten::mm"] >= 2 * 2 * (4 + 7 * 2)
    assert found["gpu_busy"] > 0
    assert found["launches"] >= sum(calls.values())
    assert "| aten::mm |" in check.page([found], list(check.SECTIONS))


def test_the_calls_that_launch_kernels_are_none(check):
    from torch.autograd import DeviceType

    steps = importlib.import_module("gpu.steps")

    def event(name, kind, microseconds):
        taken = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(
            name=name, device_type=kind, time_range=taken, self_cpu_time_total=microseconds
        )

    kernel, launch = event("gemm", DeviceType.CUDA, 4000), ("cudaLaunchKernel", DeviceType.CPU, 900)
    seen = [kernel, event(*launch), kernel, event(*launch)]
    found = steps._kernels(SimpleNamespace(events=lambda: seen), seconds=0.01)
    assert found == {"gpu_busy": 0.8, "launches": 2, "kernels": [("gemm", 2, 8.0)]}


def asked(options, small=True):
    """What the command line says."""
    return SimpleNamespace(
        out=options.work, work=options.work, small=small, device="cpu", methods="", model=None
    )


DIES = """
import os, sys
from pathlib import Path
from gpu.measuring import Lines

def lose():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

lines = Lines(Path(sys.argv[1]), Path(sys.argv[1]), "env")
lines.measure("first", dict)
lines.measure("second", lambda: os._exit(9))
lines.measure("third", lose)
lines.measure("fourth", lambda: {"value": 4})
"""


def test_a_process_that_dies_is_started_again_behind_what_it_died_in(check, options, monkeypatch):
    monkeypatch.setattr(
        check, "command", lambda name: [sys.executable, "-c", DIES, str(options.work)]
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    given = asked(options)
    check.begin("env", check.SECTIONS["env"], given, time.monotonic() + 60)
    found = lines(options)
    monkeypatch.setattr(check, "command", lambda name: [sys.executable, "-c", "1 / 0"])
    check.begin("env", check.SECTIONS["env"], given, time.monotonic() + 60)  # is not started
    assert lines(options) == found
    first, second, third, fourth, ended = found
    assert first["name"] == "first"
    assert second == {"section": "env", "name": "second", "error": "the process died: exit 9"}
    assert "illegal memory access" in third["error"]
    assert fourth["value"] == 4
    assert [line["name"] for line in check.lines_in(options.work)] == [
        line["name"] for line in (first, second, third, fourth)
    ]
    assert ended["name"] == "ended"


# Half a line is under way, as of a library that shows its progress.
HANGS = """
import sys, time
from pathlib import Path
from gpu.measuring import Lines

lines = Lines(Path(sys.argv[1]), Path(sys.argv[1]), "env")
lines.measure("first", dict)
lines.measure("hangs", lambda: (print("half", end="", flush=True), time.sleep(60)))
lines.measure("next", lambda: {"value": 3})
"""


def test_a_measurement_that_hangs_is_ended_and_the_section_goes_on_behind_it(
    check, options, monkeypatch
):
    monkeypatch.setattr(
        check, "command", lambda name: [sys.executable, "-c", HANGS, str(options.work)]
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    monkeypatch.setattr(check, "STARTING", 0)
    section = check.Section("", most=50, least=1, each=1.5)
    check.begin("env", section, asked(options, small=False), time.monotonic() + 60)
    first, hung, after = check.lines_in(options.work)
    assert (first["name"], after["value"]) == ("first", 3)
    assert hung["name"] == "hangs"
    assert "measured nothing for 2 s" in hung["error"]


def test_a_section_that_is_stopped_at_its_limit_is_gone_on_with(check, options, monkeypatch):
    """The measurement under way was cut short by the others: it is none."""
    monkeypatch.setattr(
        check, "command", lambda name: [sys.executable, "-c", HANGS, str(options.work)]
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    section = check.Section("", most=1.5, least=1, each=50)
    check.begin("env", section, asked(options, small=False), time.monotonic() + 60)
    assert [line["name"] for line in check.lines_in(options.work)] == ["first"]


LOSES = """
import sys
from pathlib import Path
from gpu.measuring import Lines

def lose():
    raise RuntimeError("CUDA error: unspecified launch failure")

lines = Lines(Path(sys.argv[1]), Path(sys.argv[1]), "env")
for number in range(9):
    lines.measure(str(number), lose)
"""


def test_a_section_that_loses_the_gpu_each_time_is_given_up_and_says_so(
    check, options, monkeypatch, capsys
):
    monkeypatch.setattr(
        check, "command", lambda name: [sys.executable, "-c", LOSES, str(options.work)]
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    check.begin("env", check.SECTIONS["env"], asked(options), time.monotonic() + 60)
    assert [line["name"] for line in check.lines_in(options.work)] == list("012345")
    assert "given up" in capsys.readouterr().out


def test_a_section_that_cannot_begin_is_tried_twice(check, options, monkeypatch, capsys):
    monkeypatch.setattr(check, "command", lambda name: [sys.executable, "-c", "import no_such"])
    check.begin("env", check.SECTIONS["env"], asked(options), time.monotonic() + 60)
    errors = [(line["name"], line["error"]) for line in check.lines_in(options.work)]
    assert errors == [("before it measured", "the process died: exit 1")] * 2
    assert "given up" in capsys.readouterr().out
    assert "No module named 'no_such'" in (options.work / "log.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_why_and_nothing_is_measured(check, options, monkeypatch):
    """Not an error for each measurement, section after section, until the time is spent."""
    out = options.work / "out"
    said = subprocess.run(
        [sys.executable, SCRIPTS / "gpu_check.py", "--out", out, "--only", "env,steps"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert "can use no GPU: " in said.stdout
    assert "steps" not in said.stdout
    assert not check.lines_in(out)


def test_lines_that_were_kept_are_gone_on_from_with_nothing_else(check, options, monkeypatch):
    """On another machine, where what the reference left is gone."""
    numerics = importlib.import_module("gpu.numerics")
    monkeypatch.setattr(numerics, "WAYS", numerics.WAYS[1:3])
    first, second = numerics.WAYS
    section(check, "reference", options)
    (of_section(check, "numerics", options)).add(numerics.name_of("l2", first[0]), verdict="ok")
    kept = (options.work / "lines.jsonl").read_text()
    there = options.work / "elsewhere"
    there.mkdir()
    (there / "lines.jsonl").write_text(kept)
    options = check.Options(there, "cpu", small=True, methods=("l2",))
    section(check, "reference", options)
    assert (there / "lines.jsonl").read_text() == kept
    section(check, "numerics", options)
    (made,) = lines(options)[2:]
    assert (made["name"], made["verdict"]) == (numerics.name_of("l2", second[0]), "ok")


def test_a_line_that_was_cut_is_none_and_the_next_one_stands_alone(check, options):
    """A process that is killed while it writes."""
    file = options.work / "lines.jsonl"
    file.write_text('{"section": "one", "name": "good", "value": 1}\n{"section": "one", "na')
    measured = of_section(check, "one", options)
    assert [line["name"] for line in measured.read()] == ["good"]
    measured.measure("next", lambda: {"value": 2})
    assert [line.get("value") for line in measured.read()] == [1, 2]


KEPT = {"planned_gib": 50.0, "peak_gib": 55.0}
STEPS = {
    "model": {"model": "Qwen2.5-3B", "rows_a_step": 16},
    "sft by default": {"s_per_step": 0.8, "tflops": 445.0, **KEPT},
    "sft by default, compiled": {"s_per_step": 0.7, "tflops": 508.0, "first_seconds": 41.6},
    "sft 1 row": {"s_per_step": 1.0, "tflops": 350.0, **KEPT},
    "talr 1 row": {"s_per_step": 1.02, "peak_gib": 60.0, "planned_gib": 50.0},
    "trl nll 1 row": {"s_per_step": 0.9, "tflops": 600.0, "peak_gib": 55.0},
    "lora 1 row": {"s_per_step": 0.5},
    "lora+kl 1 row": {"s_per_step": 0.75},
    "sft 1 row, layers again": {"s_per_step": 1.7},
    "l2 1 row, layers again": {"s_per_step": 1.9},
    "kl 1 row, layers again": {"error": "OutOfMemoryError: CUDA | out of memory"},
}


@pytest.fixture
def paged(check, options):
    """The page of made-up lines, from what is said of a row's beginning to its other cells."""

    def make(*lines, card="NVIDIA H100 80GB HBM3"):
        of_section(check, "env", options).add("gpu", gpu=card, gib=79.1)
        of_section(check, "env", options).add("versions", torch="2.13.0")
        for section, name, values in lines:
            of_section(check, section, options).add(name, **values)
        page = check.page(check.lines_in(options.work), list(check.SECTIONS))

        def row(beginning):
            (one,) = (line for line in page.splitlines() if line.startswith(f"| {beginning}"))
            return [cell.strip() for cell in one.strip("|").split(" | ")][1:]

        return page, row

    return make


def steps(**changed):
    return [("steps", name, values) for name, values in {**STEPS, **changed}.items()]


def resumed(**same):
    return [("resume", f"killed and gone on with: {name}", one) for name, one in same.items()]


def test_the_page_has_every_bar_and_expectation_beside_what_was_found(check, paged):
    any_order = {"same_bits": False, "deterministic": False}
    assert not check.is_bad(any_order)
    page, row = paged(
        *steps(),
        ("numerics", "sft precision=bf16", {"verdict": "ok"}),
        *resumed(
            **{"talr": {"same_bits": True}, "lora": {"same_bits": True}},
            **{"talr, any order": any_order},
        ),
    )
    assert "NVIDIA H100 80GB HBM3, 79.1 GiB. torch 2.13.0." in page
    assert row("gradients")[1].endswith("and 62 more")
    assert row("gradients")[2] == "so far"
    assert row("talr against sft, 1 row") == ["1.03 at most", "1.020", "met"]
    assert row("talr against sft, by default")[1] == "not measured"
    assert row("sft by default against TRL") == ["1.0 at most", "0.889", "met"]
    assert row("sft in a fixed order against TRL") == ["1.0 at most", "1.111", "**missed**"]
    assert row("sft against TRL's nll, any order | 1")[1] == "not measured"
    assert row("lora with") == ["1.5 at most", "1.500", "met"]
    assert row("sft at 3B on") == ["0.45", "0.514 (sft by default, compiled)", "met"]
    assert row("killed and gone on with |")[1:] == ["talr: yes, lora: yes", "met"]
    assert row("peak against")[1].startswith("20 % off at most (talr 1 row, of 3)")
    assert row("peak against")[2] == "**missed**"
    assert row("sft at 3B, 1 row") == ["1.6 to 1.9 s", "1.7 s", "as expected"]
    assert row("`regulariser=l2`") == ["0.04 to 0.12 s", "0.2 s", "**otherwise**"]
    assert row("`regulariser=kl` takes")[1] == "not measured"
    assert "OutOfMemoryError: CUDA \\| out of memory" in row("kl 1 row")
    # 40 s more for the first two, then a tenth of a second less a step.
    assert "a step takes 0.875 of the time, the first two together 40 s more" in page
    assert "pay from 402 steps on" in page
    assert "`study`: not measured." in page


def test_a_bar_is_met_only_where_all_of_it_was_measured(check, paged):
    numerics, variants = (importlib.import_module(f"gpu.{one}") for one in ("numerics", "steps"))
    every = [
        ("numerics", numerics.name_of(method, typed), {"verdict": "ok"})
        for method in numerics.METHODS
        for typed, _ in numerics.WAYS
    ]
    own = {name: KEPT for name, typed in variants.variants() if "=trl" not in typed[0]}
    _, row = paged(*every, *(("steps", name, one) for name, one in own.items()))
    assert row("gradients")[1:] == ["66 of 66 within", "met"]
    assert row("peak against")[1:] == [f"10 % off at most (talr by default, of {len(own)})", "met"]
    assert row("killed and gone on with |")[1:] == ["not measured", ""]


def test_a_run_that_failed_and_a_gradient_that_is_off_miss_their_bars(check, paged):
    page, row = paged(
        *steps(**{"sft by default, compiled": {"s_per_step": 0.9, "first_seconds": 30.0}}),
        ("numerics", "sft precision=bf16", {"verdict": "OFF", "off": "1.4e+00"}),
        *resumed(
            talr={"same_bits": True},
            lora={"error": "RuntimeError: exit 1"},
            **{"talr, any order": {"error": "RuntimeError: exit 1"}},
        ),
    )
    assert row("gradients")[2] == "**missed**"
    assert row("killed and gone on with |")[1].startswith("talr: yes, lora: no")
    assert row("killed and gone on with |")[2] == "**missed**"
    assert row("sft at 3B on")[1:] == ["0.450 (sft by default)", "**missed**"]  # 0.44995
    assert "Compiled layers do not pay: a step takes 1.125 of the time." in page


@pytest.mark.parametrize(
    ("card", "model"),
    [("NVIDIA RTX 4090", "Qwen2.5-0.5B"), ("NVIDIA H100 PCIe", "Qwen2.5-3B")],  # of 756 TFLOP/s
)
def test_figures_of_another_card_or_model_are_not_held_against_an_h100(check, paged, card, model):
    _, row = paged(*steps(model={"model": model}), card=card)
    assert row("sft at 3B on")[1:] == ["not measured", ""]
    assert row("sft at 3B, 1 row")[1] == "not measured"
    assert row("talr against sft, 1 row")[2] == "met"


def test_a_card_without_bf16_is_held_to_fp16(check, paged):
    numerics = importlib.import_module("gpu.numerics")
    names = [numerics.name_of(one, typed) for one in numerics.METHODS
             for typed, _ in numerics.ways(native=False)]  # fmt: skip
    assert len(names) == 66
    assert not any("bf16" in name for name in names)
    _, row = paged(*(("numerics", name, {"verdict": "ok"}) for name in names), card="Tesla T4")
    assert row("gradients")[1:] == ["66 of 66 within", "met"]


def test_a_page_of_nothing_says_so(check):
    found = check.page([], list(check.SECTIONS))
    assert "No GPU" in found
    assert "| met |" not in found
    assert "missed" not in found


def test_transformers_ways_answer_as_our_own_loop_does(check):
    """To their budgets, and to an end that comes before."""
    import torch
    from small_models import made

    from talr_cli.evaluation.decoding import Request

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
        check.watch(process, 60, 60)
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
    assert {"env", "numerics", "steps", "generate", "resume", "study"} <= sections
    assert any(line.get("same_bits") for line in found)
    alike = {line["name"]: line["same_answers"] for line in found if "same_answers" in line}
    assert len(alike) == 4
    assert set(alike.values()) == {1.0}
    written = (tmp_path / "page.md").read_text()
    assert "talr: yes, not measured: killed and gone on with: lora | so far |" in written
