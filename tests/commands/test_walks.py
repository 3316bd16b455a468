"""The walks of docs/: every command of a page, in its order, and what the page says comes out.

What is shortened is said beside each page: words of a command are replaced, or overrides are added
behind it, and nothing else is changed. The runs of a sweep are made by `talr train` and `talr eval`
before it, which costs less than a process for each: the sweep has to find them all.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TIMEOUT, talr
from slurm_cluster import lacking, slurm
from test_fetch import ARGUMENTS, lab  # noqa: F401  a hub of this machine

from talr_cli.config.options import take_config_dir
from talr_cli.sweep.grid import base_command
from talr_cli.sweep.overview import study_overview

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"(?<=\n\n)((?: {4}.+\n)+)")
# Of every run: a model and an evaluation of seconds.
SHORT = (
    *("logger=none", "device=cpu", "limit=2", "suite.tasks=[mini_knowledge]"),
    *("suite.drift=false", "domain.max_new_tokens=4"),
)
STEPS = ("trainer.max_steps=2", "trainer.batch_size=2")
MADE_IN = ("train", "sweep", "eval")


class Walk:
    """A page, and the folder in which its commands are typed."""

    def __init__(self, page, folder, replaced=()):
        self.text = (ROOT / "docs" / f"walk-{page}.md").read_text(encoding="utf-8")
        self.folder, self.replaced = folder, dict(replaced)
        for name, content in FILE.findall(self.text):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.left = list(self.commands())
        self.said = ""

    def commands(self):
        """Its lines that are typed, each as its words."""
        text = BLOCK.sub("", self.text)
        for block in COMMAND.findall(text):
            for line in block.replace("\\\n", " ").splitlines():
                yield shlex.split(line)

    def words(self, command):
        """As they are typed here."""
        words = [self.replaced.get(word, word) for word in command]
        if words[1] not in MADE_IN:
            return words[1:]
        of_training = STEPS if words[1] != "eval" else ()
        return [*words[1:], *SHORT, *of_training]

    def next(self, *begin, code=0):
        """The next command, which begins so, is typed; what it printed."""
        command = self.left.pop(0)
        assert tuple(command[: len(begin)]) == begin, command
        done = talr(*self.words(command), cwd=self.folder, logger=None)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        self.said = done.stdout + done.stderr
        return done.stdout

    def make(self, *choices):
        """Make the runs of the next sweep, for each of these choices, and its base's scores."""
        command = self.left[0]
        assert command[1] == "sweep"
        lists = {choice.partition("=")[0] for one in choices for choice in one}
        rest = [word for word in self.words(command)[1:] if word.partition("=")[0] not in lists]
        rest = [word for word in rest if word != "--dry-run"]
        for one in choices:
            done = talr("train", *rest, *one, cwd=self.folder, logger=None)
            assert done.returncode == 0, done.stderr
        config_dir, typed = take_config_dir([*rest, *choices[0]])
        base = shlex.split(base_command(typed, config_dir and self.folder / config_dir))
        done = talr(*base[1:], cwd=self.folder, logger=None)
        assert done.returncode == 0, done.stderr

    def run(self, study, name):
        (found,) = self.folder.glob(f"runs/{study}/*/{name}-*")
        return found


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


# The first steps of a walk, which take seconds, are tried with every change; the whole one is slow.
WHOLE = pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])


@WHOLE
def test_rows_of_your_own(whole, tmp_path):
    """Random weights in the place of SmolLM2; 16 and 4 rows in the place of 500 and 100."""
    walk = Walk("rows", tmp_path, {"model=smollm2-135m": "model=tiny"})
    (rows,) = (text for kind, text in BLOCK.findall(walk.text) if kind == "csv")
    head, *lines = rows.splitlines()
    for name, begin, count in (("train", 0, 16), ("test", 100, 4)):
        made = [
            line.replace("order ", f"order {begin + n}")
            for n in range(count // len(lines))
            for line in lines
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([head, *made]) + "\n")
    walk.next("talr", "train", "model=tiny")
    assert "⟦billing<|im_end|>⟧" in walk.said
    assert "found this run done" not in walk.said  # it was made just now
    (trial,) = tmp_path.glob("runs/trial/*/sft-*")
    answers = (trial / "samples/domain.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"messages", "output", "correct"} <= json.loads(answers[0]).keys()
    assert read_json(trial / "results.json")["domain"]["scorer"] == "team.judge"
    if not whole:
        return
    walk.make(["lr=1e-5"], ["lr=1e-4"])
    said = walk.next("talr", "sweep")
    assert "sweep: 3 found done" in said
    assert said.splitlines()[-1] == "next: talr recommend study=tickets"
    walk.replaced["max_general_loss=0.05"] = "max_general_loss=1"  # two questions tell nothing
    said = walk.next("talr", "recommend")
    assert re.search(r"^  ship     sft-lr1e-", said, re.MULTILINE)
    walk.next("talr", "compare")
    assert (tmp_path / "flips.jsonl").exists()
    walk.next("talr", "export")
    assert not walk.left
    (code,) = (
        text for kind, text in BLOCK.findall(walk.text) if kind == "python" and "pipeline" in text
    )
    code = code.replace('"shipped"', repr(str(tmp_path / "shipped")))
    exec(compile(code, "docs/walk-rows.md", "exec"), {})


@pytest.mark.slow
def test_the_studys_grid(tmp_path):
    """Random weights in the place of Qwen3, one rate in the place of three."""
    replaced = {
        "model=qwen3-0.6b": "model=tiny",
        "lr=2e-5,6e-5,2e-4": "lr=6e-5",
        "max_general_loss=0.02": "max_general_loss=1",
    }
    walk = Walk("study", tmp_path, replaced)
    assert "this machine" in walk.text
    assert "experiment=facts" in walk.next("talr", "doctor")
    plan = walk.next("talr", "sweep")
    assert "runs: 3 to do" in plan
    assert not (tmp_path / "runs").exists()
    walk.make(["method=sft"], ["method=talr"])
    said = walk.next("talr", "sweep")
    assert "sweep: 3 found done" in said
    assert "next: talr recommend study=mine" in said
    assert "mine: 5 runs" in walk.next("talr", "list")
    assert "  lr=6e-5  (1e-5)" in walk.next("talr", "show")
    (tmp_path / "runs/mine/report/report.html").unlink()
    assert "report: runs/mine/report/report.html" in walk.next("talr", "report")
    assert (tmp_path / "runs/mine/report/report.html").stat().st_size > 10_000
    assert "talr-lr6e-5-s0-" in walk.next("talr", "compare")
    assert "talr export run=" in walk.next("talr", "recommend")
    walk.next("talr", "export")
    assert {"model.safetensors", "README.md"} <= {
        one.name for one in (tmp_path / "shipped").iterdir()
    }
    assert not walk.left


@WHOLE
def test_a_method_of_your_own(whole, tmp_path, monkeypatch):
    """One rate in the place of two."""
    walk = Walk("method", tmp_path, {"lr=5e-5,2e-4": "lr=5e-5"})
    assert walk.left.pop(0) == ["python", "-m", "pytest", "-q", "test_clipped.py"]
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {}
    exec(compile((tmp_path / "test_clipped.py").read_text(), "test_clipped.py", "exec"), names)
    names["test_hopeless_tokens_weigh_nothing"]()
    sys.modules.pop("clipped")
    walk.next("talr", "train")
    assert "weight_mean" in (walk.run("trial", "clipped") / "metrics.jsonl").read_text()
    walk.next("talr", "train", code=2)
    assert "objective.floor=2" in walk.said
    assert len(list(tmp_path.glob("runs/trial/*/*/config.yaml"))) == 1
    if not whole:
        return
    walk.make(["objective=sft"], ["objective=clipped"])
    assert "sweep: 3 found done" in walk.next("talr", "sweep")
    assert "report: runs/clipped/report/report.html" in walk.next("talr", "report")
    assert "clipped" in walk.next("talr", "compare")
    assert not walk.left


@pytest.mark.slow
def test_with_the_wheel_alone(tmp_path):
    """Random weights in the place of SmolLM2; the wheel is unpacked where no checkout is seen."""
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], capture_output=True
    )
    if built.returncode:
        pytest.skip("no wheel can be built here")
    (wheel,) = tmp_path.glob("*.whl")
    walk = Walk("wheel", tmp_path, {"model=smollm2-135m": "model=tiny"})
    assert walk.left.pop(0)[:3] == ["python3", "-m", "venv"]
    assert walk.left.pop(0) == ["pip", "install", f"{wheel.name}[demo]"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "env"]
    subprocess.run([*install, wheel.name], cwd=tmp_path, check=True)

    def typed(*words):
        done = subprocess.run(
            [sys.executable, "-m", "talr_cli.cli", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "env")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    assert walk.left.pop(0)[0] == "eval"
    assert "complete -o nospace" in typed("completion", "bash")
    expected = {
        "doctor": "ok ",
        "train": "score the base model: talr eval model=",
        "eval": "run directory: runs/default/",
        "list": "default: 2 runs",
        "show": "made by  talr train",
        "compare": "B - A on the same items",
        "analyze": "analysis: ",
        "report": "report: runs/default/report/report.html",
        "clean": "files are needed|would be freed",
    }
    assert [command[1] for command in walk.left] == list(expected)
    for command in walk.left:
        words = walk.words(command)
        if words[0] == "analyze":
            run = walk.run("default", "sft-lr1e-4").relative_to(tmp_path)
            words = [f"ckpt={run}" if word.startswith("ckpt=") else word for word in words]
        assert re.search(expected[words[0]], typed(*words)), words


def wait_for(what, folder, holds):
    """Until `holds` of how the runs of the study stand."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        runs = study_overview(folder / "runs", "lab").runs
        if holds({one.state for one in runs}):
            return
        stand = [f"{one.path.name}: {one.state}, {one.detail}" for one in runs]
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {what}; {stand}"
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.skipif(lacking() is not None, reason=lacking() or "there can be a SLURM")
def test_a_cluster_without_internet(lab, tmp_path, monkeypatch):  # noqa: F811
    """A hub and a SLURM of this machine; a model, rows and a task of that hub, without GPUs."""
    _, folder = lab
    of_cluster = ("slurm.gpus=0", "slurm.cpus=1", "device=cpu")
    replaced = {
        "folder=/shared/talr": f"folder={tmp_path / 'shared'}",
        "lr=5e-6,2e-5": "lr=5e-6",
        "slurm.partition=gpu": "slurm.partition=main",
        "slurm.minutes=240": "slurm.minutes=30",
        "max_general_loss=0.02": "max_general_loss=1",
    }
    walk = Walk("offline", folder, replaced)
    own = {"model=qwen3-0.6b", "dataset=medcalc", "suite=lite", "method=sft,talr"}
    of_lab = [word for word in ARGUMENTS if not word.startswith("method=")]

    def typed(*begin):
        command = walk.left.pop(0)
        assert tuple(command[: len(begin)]) == begin
        words = walk.words(command)
        if words[0] in ("fetch", "sweep"):
            words = [word for word in words if word not in own and word not in SHORT + STEPS]
            words = [*words, *of_lab, *(of_cluster if words[0] == "sweep" else ())]
        done = talr(*words, cwd=folder, logger=None)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    fetched = typed("talr", "fetch")
    assert "everything is cached, and was found without network access" in fetched
    for line in (walk.left.pop(0), walk.left.pop(0)):
        assert line[0] == "export"
        for name, value in (word.split("=") for word in line[1:]):
            value = value.replace("/shared/talr", str(tmp_path / "shared"))
            monkeypatch.setenv(name, value)
            assert name == "WANDB_MODE" or f"{name}={value}" in fetched
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with slurm(tmp_path / "slurm") as conf:
        monkeypatch.setenv("SLURM_CONF", conf)
        again = list(walk.left[1])
        assert "#!/bin/bash" in typed("talr", "sweep")
        assert "next: talr status study=lab" in typed("talr", "sweep")
        assert "sft-lr5e-6" in typed("talr", "status")
        log = "runs/lab/*/sft-lr5e-6-*/train.log"
        wait_for("the first line of a run", folder, lambda _: list(folder.glob(log)))
        typed("talr", "logs")
        typed("talr", "stop")
        wait_for("the stop", folder, lambda states: not states & {"waiting", "running"})
        walk.left.insert(0, again)  # "the line of the sweep, typed again, submits what is left"
        typed("talr", "sweep")
        wait_for("the end of all", folder, lambda states: states == {"done"})
    assert "report: runs/lab/report/report.html" in typed("talr", "report")
    assert "ship" in typed("talr", "recommend")
    assert not walk.left
