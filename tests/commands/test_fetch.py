"""`talr fetch` from a hub of this machine, and the same arguments after that hub has gone."""

import shlex
import shutil

import pytest
from command_line import talr
from conftest import jsonl
from hub_server import hub

from talr_cli.commands import fetch
from talr_cli.config import composition
from talr_cli.config.commands import SweepConfig
from talr_cli.sweep import fetching
from talr_cli.sweep.grid import expand_grid

TASK = """
task: lab_questions
dataset_path: lab/questions
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
ARGUMENTS = (
    *("model.path=lab/tiny", "model.random_init=null", "model.package=null", "model.name=lab"),
    *("model.made_for=null", "dataset=esci", "dataset.hub_id=lab/pairs"),
    *("suite.task_dir=tasks", "suite.tasks=[lab_questions]", "+suite.metrics.lab_questions=acc"),
    *("method=sft,averaging", "device=cpu", "logger=none"),
    *("trainer.max_steps=1", "trainer.batch_size=2", "domain.max_new_tokens=2", "limit=2"),
)
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


@pytest.fixture
def lab(tmp_path, monkeypatch, tiny_source):
    """A hub with a model, a dataset and a task's questions, and a folder that has the task."""
    root = tmp_path / "hub"
    shutil.copytree(tiny_source.directory, root / "models/lab/tiny")
    pairs, questions = root / "datasets/lab/pairs", root / "datasets/lab/questions"
    pairs.mkdir(parents=True)
    questions.mkdir(parents=True)
    for split, count in (("train", 40), ("test", 8)):
        rows = [f"query {split} {n},product {n},{'ESCI'[n % 4]}" for n in range(count)]
        text = "\n".join(["query,product_title,esci_label", *rows])
        (pairs / f"{split}.csv").write_text(text + "\n")
    asked = [{"question": f"{n}?", "choices": ["yes", "no"], "answer": n % 2} for n in range(4)]
    (questions / "test.jsonl").write_text(jsonl(asked))
    at = tmp_path / "work"
    (at / "tasks").mkdir(parents=True)
    (at / "tasks/lab.yaml").write_text(TASK)
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    with hub(root) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served, at


def weights(served):
    return [start for file, start in served.got if file == "model.safetensors"]


@pytest.mark.slow
def test_a_sweep_runs_offline_on_what_was_fetched(lab, monkeypatch):
    served, at = lab
    fetch = ("fetch", "folder=share", *ARGUMENTS)
    size = (served.root / "models/lab/tiny/model.safetensors").stat().st_size
    served.breaks["model.safetensors"] = size - 1000
    done = talr(*fetch, cwd=at, logger=None)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    assert "1/3 model lab/tiny, " in done.stdout
    assert "2/3 dataset lab/pairs: 38 training rows, 8 test rows" in done.stdout
    assert "3/3 suite mini: 1 tasks" in done.stdout
    # The connection was lost: what had come in whole chunks is not asked for again.
    first, then = weights(served)
    assert (first, then > 0) == (0, True)
    again = talr(*fetch, cwd=at, logger=None)
    assert again.returncode == 0, again.stderr
    assert len(weights(served)) == 2
    assert "lab/tiny (hub, 01234567), 0 B fetched" in again.stdout
    # The hub is gone: what is typed is what fetch has said.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, place in fetching.cache_variables(at / "share").items():
        monkeypatch.setenv(name, place)
        assert f"{name}={place}" in done.stdout
    made = talr("sweep", *ARGUMENTS, cwd=at)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "sweep: 3 done" in made.stdout


@pytest.mark.slow
def test_missing_data_of_a_task_is_one_line(lab):
    served, at = lab
    shutil.rmtree(served.root / "datasets/lab/questions")
    done = talr("fetch", "folder=share", *ARGUMENTS, cwd=at, logger=None)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("talr: "))
    assert "lab_questions: its data lab/questions cannot be had from the hub" in line
    assert "everything is cached" not in done.stdout


@pytest.mark.slow
def test_a_gated_model_is_refused_with_where_to_ask(lab):
    served, at = lab
    served.gated.add("lab/tiny")
    done = talr("fetch", "folder=share", *ARGUMENTS, cwd=at, logger=None)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("talr: "))
    assert f"model.path=lab/tiny is gated: ask for access at {served.url}/lab/tiny" in line


def needs(*overrides):
    return [
        (one.kind, one.name) for one in fetching.resources_of(expand_grid(list(overrides), None))
    ]


def test_each_thing_is_fetched_once():
    grid = ("model=tiny,smollm2-135m", "dataset=metamath,esci-mini", "method=sft,l2", "lr=1e-5")
    assert needs(*grid) == [
        ("model", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("dataset", composition.load("train", ["dataset=metamath"]).dataset.hub_id),
        ("suite", "mini"),
        ("dataset", "esci-mini"),
        ("model", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ]
    assert ("suite", "mini") not in needs("model=tiny", "eval=false")


def test_arguments_of_a_sweep_are_taken_and_offline_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    more = ("launcher=slurm", "detach=true", "slurm.partition=x", "hydra.launcher.partition=y")
    done = talr("fetch", "model=tiny", "lr=1e-5,1e-4", *more, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "talr: HF_HUB_OFFLINE=1 forbids downloads" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_next_command_keeps_the_config_dir(tmp_path, capsys, monkeypatch):
    """Without it there would be no such model."""
    folder = tmp_path / "my conf"
    (folder / "model").mkdir(parents=True)
    (folder / "model/own.yaml").write_text(f"defaults: [tiny]\npath: {tmp_path}\n")
    monkeypatch.setattr(fetch, "_fetch", lambda needs, folder: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert fetch.main(["--config-dir", str(folder), "model=own", "method=sft,talr"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    grid = composition.split_grid_arguments("sweep", SweepConfig, shlex.split(line)[2:])
    assert [one.config.model.path for one in expand_grid(grid.of_runs, grid.config_dir)] == 2 * [
        str(tmp_path)
    ]
