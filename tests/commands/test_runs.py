"""Whole runs of the tiny model through the real command line: repeat, kill, resume, evaluate."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import LONG_ROWS, SMALL, TIMEOUT, rows, same, sealed, talr, train, weights
from test_tracking import curve, read_log

from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import command_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("method=talr", "lr=1e-3", cwd=tmp_path_factory.mktemp("first"))


def test_the_run_directory_is_complete(run):
    for name in ("config.yaml", "overrides.yaml", "env.json", "training.json", "samples"):
        assert (run / name).exists(), name
    assert json.loads((run / "status.json").read_text())["state"] == "evaluated"
    assert not (run / "checkpoints").exists()
    results = json.loads((run / "results.json").read_text())
    assert [results["run"][key] for key in ("method", "lr", "seed")] == ["talr", 1e-3, 0]
    assert results["training"]["steps"] == 12
    assert results["training"]["device"] == "cpu"
    assert results["training"]["processes"] == 1
    assert results["domain"]["n"] == 6
    tasks = results["general"]["tasks"].values()
    mean = sum(task["score"] for task in tasks) / len(tasks)
    assert results["general"]["score"] == pytest.approx(mean)
    assert results["general"]["limit"] == 2
    assert results["general"]["harness"]["version"]
    assert results["drift"]["kl_from_base"]["score"] > 0
    assert results["drift"]["domain_kl_from_base"]["score"] > 0
    assert results["drift"]["domain_kl_from_base"]["n"] == 6  # one answer to each test row


def test_every_step_is_recorded(run):
    steps = rows(run)
    assert [row["step"] for row in steps] == list(range(1, 13))
    wanted = {
        "loss", "weighted_loss", "tau", "weight_mean", "weight_p10", "weight_p50", "weight_p90",
        "hard_token_share", "grad_norm", "lr", "tokens_per_second", "target_tokens",
    }  # fmt: skip
    for row in steps:
        assert wanted <= row.keys()
        assert 0 < row["weighted_loss"] <= row["loss"]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_every_answer_is_kept_with_its_verdict(run):
    samples = [json.loads(line) for line in (run / "samples/domain.jsonl").read_text().splitlines()]
    assert len(samples) == 6
    assert {"messages", "output", "parsed", "correct", "reference"} <= samples[0].keys()
    assert len(list((run / "samples").glob("general-mini_*.jsonl"))) == 4


def test_the_same_command_gives_the_same_weights_bit_for_bit(run, tmp_path):
    again = train("method=talr", "lr=1e-3", "eval=false", cwd=tmp_path)
    assert again.name == run.name
    assert same(weights(run), weights(again))
    other_seed = train("method=talr", "lr=1e-3", "eval=false", "seed=1", cwd=tmp_path)
    assert not same(weights(run), weights(other_seed))


def test_a_finished_run_is_found(run):
    before = (run / "results.json").stat().st_mtime_ns
    done = talr("train", *SMALL, "method=talr", "lr=0.001", cwd=run.parents[3])
    assert done.returncode == 0
    assert "found this run done" in done.stderr
    assert (run / "results.json").stat().st_mtime_ns == before


def test_another_suite_is_scored_without_training_again(run):
    before = (run / "model/model.safetensors").stat().st_mtime_ns
    done = talr("train", *SMALL, "method=talr", "lr=1e-3", "suite.limit=3", cwd=run.parents[3])
    assert done.returncode == 0
    assert "evaluating" in done.stderr
    assert json.loads((run / "results.json").read_text())["general"]["limit"] == 3
    assert (run / "model/model.safetensors").stat().st_mtime_ns == before


def test_eval_of_a_run_gives_the_scores_of_train(run):
    """The checkpoint that was evaluated is the one that was saved."""
    suite = ("suite.limit=2", "domain.max_new_tokens=4")
    run = train("method=talr", "lr=2e-3", cwd=run.parents[3])  # scored as it came from training
    trained = json.loads((run / "results.json").read_text())
    (run / "results.json").unlink()
    done = talr("eval", f"ckpt={run}", *suite, "device=cpu", cwd=run.parents[3])
    assert done.returncode == 0, done.stderr
    evaluated = json.loads((run / "results.json").read_text())
    for section in ("general", "domain", "drift"):
        for results in (trained, evaluated):
            results[section].pop("seconds", None)
        assert evaluated[section] == trained[section]
    assert evaluated["run"] == {**trained["run"], "checkpoint": evaluated["run"]["checkpoint"]}


def test_a_run_scored_on_other_data_keeps_its_own_scores(run):
    cwd = run.parents[3]
    before = (run / "results.json").read_text()
    row = json.dumps({"prompt": "What is 2 + 2?", "completion": "4"})
    (cwd / "rows.jsonl").write_text(f"{row}\n" * 3)
    other = ("dataset=jsonl", "dataset.train=rows.jsonl", "dataset.test=rows.jsonl")
    done = talr("eval", f"ckpt={run}/model", *other, "suite.limit=1", "study=else", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert (run / "results.json").read_text() == before
    (results,) = (cwd / "runs/else").glob("*/*/results.json")
    scores = json.loads(results.read_text())
    assert scores["domain"]["n"] == 3
    assert scores["run"]["method"] == run.name


def test_the_base_model_is_scored_and_reported(run):
    cwd = run.parents[3]
    same_data = [o for o in SMALL if not o.startswith("trainer")]
    done = talr("eval", *same_data, cwd=cwd)
    assert done.returncode == 0, done.stderr
    base = json.loads(next(run.parent.glob("base-*/results.json")).read_text())
    assert base["run"]["method"] == "base"
    assert base["drift"]["kl_from_base"]["score"] == pytest.approx(0, abs=1e-6)
    tuned = json.loads((run / "results.json").read_text())["drift"]["domain_kl_from_base"]
    assert base["drift"]["domain_kl_from_base"]["score"] == 0
    assert base["drift"]["domain_kl_from_base"]["tokens"] == tuned["tokens"]
    done = talr("report", "study=default", cwd=cwd, logger=None)
    assert done.returncode == 0, done.stderr
    report = run.parents[1] / "report"
    assert {"table.md", "table.csv", "table.tex", "cost.csv", "report.html"} <= {
        path.name for path in report.iterdir()
    }
    drawn = {path.name.partition("-tiny__")[0] for path in report.glob("*.png")}
    assert {"tradeoff", "score-by-lr", "loss", "easy-tokens"} <= drawn
    assert "talr" in done.stdout
    assert done.stdout.splitlines()[-1] == "report: runs/default/report/report.html"


@pytest.mark.parametrize(
    "method",
    [
        ("method=talr",),
        pytest.param(("method=lora", "adapter.dropout=0.1"), marks=pytest.mark.slow),
        pytest.param(
            ("method=l2", "regulariser.reduction=sum", "regulariser.strength=1"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["talr", "lora", "l2"],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(method, tmp_path):
    overrides = (*method, "lr=1e-3", "eval=false", LONG_ROWS)
    (tmp_path / "whole").mkdir()
    uninterrupted = train(*overrides, cwd=tmp_path / "whole")
    command = [sys.executable, "-m", "talr_cli.cli", "train", "logger=none", *SMALL, *overrides]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT
    while not sealed(tmp_path, "runs/*/*/*/checkpoints/*/talr.manifest"):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = next(tmp_path.glob("runs/*/*/*"))
    assert not (killed / "model").exists()
    again = train(*overrides, cwd=tmp_path)
    assert again == killed
    training = json.loads((again / "training.json").read_text())["training"]
    assert training["resumed_from_step"] == 6
    assert [row["step"] for row in rows(again)] == list(range(1, 13))
    assert same(weights(again), weights(uninterrupted))


def test_one_step_at_the_smallest_rate_changes_the_weights(tmp_path):
    """In bf16 a step of 1e-6 would vanish; the master weights are fp32."""
    one = ("lr=1e-6", "trainer.max_steps=1", "eval=false")
    exact = train(*one, "trainer.save_dtype=float32", cwd=tmp_path)
    shares = json.loads((exact / "training.json").read_text())["weights"]
    assert shares["changed_share"] > 0.5
    assert shares["changed_share_saved"] == shares["changed_share"]
    rounded = train(*one, "trainer.save_dtype=bfloat16", cwd=tmp_path)
    shares = json.loads((rounded / "training.json").read_text())["weights"]
    assert shares["changed_share"] > 0.5
    assert shares["changed_share_saved"] < 0.1
    assert {tensor.dtype for tensor in weights(rounded).values()} == {torch.bfloat16}


def test_a_diverging_run_is_stopped_and_says_why(tmp_path):
    done = talr("train", *SMALL, "lr=1e30", "trainer.max_grad_norm=1e30", cwd=tmp_path)
    assert done.returncode == 2
    assert "diverged" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    status = json.loads(next(tmp_path.glob("runs/*/*/*/status.json")).read_text())
    assert status["state"] == "diverged"
    assert "step" in status["reason"]


def test_rows_that_are_too_long_are_named_before_training(tmp_path):
    done = talr("train", *SMALL, "trainer.max_length=60", cwd=tmp_path)
    assert done.returncode == 2
    assert "trainer.max_length=60" in done.stderr
    assert not list(tmp_path.glob("runs/*/*/*/status.json"))


def test_the_first_lines_show_what_is_trained(tmp_path):
    done = talr("train", *SMALL, "eval=false", "trainer.max_steps=1", cwd=tmp_path)
    assert "⟦" in done.stderr
    assert "<|im_end|>⟧" in done.stderr


def test_overlap_between_train_and_test_is_warned_of(tmp_path):
    row = json.dumps({"prompt": "What is 2 + 2?", "completion": "4"})
    other = json.dumps({"prompt": "What is 3 + 3?", "completion": "6"})
    (tmp_path / "train.jsonl").write_text(f"{row}\n{other}\n")
    (tmp_path / "test.jsonl").write_text(f"{row}\n")
    done = talr(
        "train",
        "model=tiny",
        "dataset=jsonl",
        "dataset.train=train.jsonl",
        "dataset.test=test.jsonl",
        "trainer.batch_size=2",
        "trainer.max_steps=1",
        "eval=false",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1 test prompts also occur in training" in done.stderr


def test_the_offline_wandb_file_holds_the_whole_run(tmp_path):
    directory = train("trainer.max_steps=3", "suite.drift=false", cwd=tmp_path, logger="wandb")
    (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    log = read_log(file)
    assert curve(log, "train/loss_nats_per_token") == {
        row["step"]: row["loss"] for row in rows(directory)
    }
    assert log["run"].run_id == directory.name.rpartition("-")[2]
    assert log["run"].run_group == "default"
    assert log["config"]["lr"] == 1e-5
    results = json.loads((directory / "results.json").read_text())
    assert log["summary"]["general/score"] == pytest.approx(results["general"]["score"])


def test_a_study_can_be_moved_and_renamed(run, tmp_path):
    """Nothing in it is found by an absolute path, or by what it was called."""
    moved = shutil.copytree(run.parents[1], tmp_path / "elsewhere" / "else")
    there = moved / Path(*run.parts[-2:])
    (there / "results.json").unlink()  # other tests may have scored it on more items
    asked = [one for one in SMALL if one.startswith(("suite.", "domain.", "device="))]
    done = talr("eval", f"ckpt={there}", *asked, "suite.tasks=[mini_knowledge]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scored = json.loads((there / "results.json").read_text())
    assert (scored["run"]["study"], [*scored["general"]["tasks"]]) == ("else", ["mini_knowledge"])
    command = command_of_run(RunDirectory(there))
    assert command.endswith(f" study=else runs_dir={moved.parent}")
    done = talr(*shlex.split(command)[1:], "eval=false", cwd=tmp_path, logger=None)
    assert done.returncode == 0, done.stderr
    assert "found this run done" in done.stderr
    assert {one.name for one in tmp_path.iterdir()} == {"elsewhere"}
