"""Whole sweeps of the tiny model through the real command line: skip, retry, kill, stop, share."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from command_line import LONG_ROWS, SMALL, TIMEOUT, same, talr, weights
from test_command_line import imported_by

# Training only, so that there is no base to score: two runs of twelve steps.
TRAINED = ("method=sft,talr", "lr=1e-3", "eval=false", LONG_ROWS)


def command(*overrides):
    return [sys.executable, "-m", "talr_cli.cli", "sweep", *SMALL, "logger=none", *overrides]


def start(*overrides, cwd):
    """A sweep that leads a group of processes, as one started from a shell does."""
    return subprocess.Popen(
        command(*overrides),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Heard even where they are ignored for these tests, as in the background or under nohup.
        preexec_fn=_hear,
    )


def _hear():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def sweep(*overrides, cwd, logger="none"):
    return talr("sweep", *SMALL, *overrides, cwd=cwd, logger=logger)


def runs(folder):
    """{method: run directory}."""
    found = folder.glob("runs/*/*/*/status.json")
    return {path.parent.name.partition("-")[0]: path.parent for path in found}


def state(run):
    return json.loads((run / "status.json").read_text())["state"]


def wait_for(pattern, folder, process, count=1):
    deadline = time.monotonic() + TIMEOUT
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


# One study: a run that diverges among others, its base, an average of each.

GRID = (
    "method=sft,averaging",
    "lr=1e-3,1e30",
    "trainer.max_grad_norm=1e30",
    "trainer.max_steps=3",
    "domain.limit=2",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a sweep, and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    return folder, sweep("-m", *GRID, cwd=folder)


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(study):
    folder, done = study
    assert done.returncode == 1
    assert "sweep: 3 done, 1 diverged, 1 not started" in done.stdout
    states = sorted(state(path.parent) for path in folder.glob("runs/*/*/*/status.json"))
    assert states == ["diverged", "evaluated", "evaluated", "evaluated"]
    (diverged,) = folder.glob("runs/*/*/sft-lr1e+30-*")
    assert "nan" in json.loads((diverged / "status.json").read_text())["reason"]
    assert "diverged" in (diverged / "train.log").read_text()
    assert "Traceback" not in done.stderr
    # What it says while it goes on: each start with its log, each end with its scores.
    assert not re.search(r"[\x1b\r]", done.stdout + done.stderr)
    starts = re.findall(r"^(\d)/5 starts: (\S+)$", done.stderr, re.MULTILINE)
    assert [number for number, _ in starts] == ["1", "2", "3", "4"]
    assert all((folder / log).is_file() for _, log in starts)
    scores = r"domain [01]\.\d{3} \([+-]\d\.\d{3}\), general [01]\.\d{3} \([+-]\d\.\d{3}\)$"
    assert re.search(rf"^2/5 done in \d+:\d\d: sft-lr1e-3-\S+: {scores}", done.stderr, re.MULTILINE)
    assert re.search(r"^3/5 diverged in ", done.stderr, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "next: talr recommend study=default"
    # Scored once, whatever the number of runs.
    assert len(list(folder.glob("runs/*/*/base-*/results.json"))) == 1
    assert (folder / "runs/default/report/report.html").exists()


def test_averaging_uses_the_sft_run_of_the_sweep(study):
    folder, _ = study
    (averaged,) = folder.glob("runs/*/*/averaging-lr1e-3-*")
    (tuned,) = folder.glob("runs/*/*/sft-lr1e-3-*")
    training = json.loads((averaged / "training.json").read_text())
    assert training["weights"]["averaged"]["of"] == tuned.name
    assert "found this run done" in (averaged / "train.log").read_text()


def test_a_second_sweep_starts_nothing_and_retries_what_it_is_told_to(study):
    folder, _ = study
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/*.log")}
    again = sweep(*GRID, cwd=folder)
    assert again.returncode == 1
    assert "sweep: 3 found done, 1 diverged, 1 not started" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    retried = sweep(*GRID, "retry_failed=true", cwd=folder)
    assert "sweep: 3 found done, 1 diverged, 1 not started" in retried.stdout
    (diverged,) = folder.glob("runs/*/*/sft-lr1e+30-*/train.log")
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {diverged}


def test_the_plan_of_a_finished_study_knows_its_time(study):
    folder, _ = study
    plan = sweep(*GRID, "seed=0,1", "--dry-run", cwd=folder)
    assert plan.returncode == 0, plan.stderr
    assert "runs: 3 done, 5 to do, 1 failed" in plan.stdout
    assert "of training and scoring, by the finished runs" in plan.stdout
    assert "failed (retry_failed=true)" in plan.stdout
    assert "weights of sft-lr1e-3-s1-" in plan.stdout


@pytest.mark.slow  # tests/sweep/test_prune.py has what is kept, of runs that nobody trains
@pytest.mark.parametrize("keep", ["none", "best"])
def test_models_are_kept_as_asked_for_and_their_runs_stay_done(study, keep, tmp_path):
    folder, _ = study
    kept = set()
    shutil.copytree(folder / "runs", tmp_path / "runs")
    one = [override.replace(",1e30", "") for override in GRID]
    done = sweep(*one, f"keep={keep}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    models = {path.parent.name.partition("-")[0] for path in tmp_path.glob("runs/*/*/*/model")}
    if keep == "best":
        table = (tmp_path / "runs/default/report/table.csv").read_text().splitlines()
        columns = table[0].split(",")
        rows = [dict(zip(columns, line.split(","), strict=True)) for line in table[1:]]
        front = {row["method"] for row in rows if row["pareto_front"] == "True"}
        kept = front & {"sft", "averaging"}
    assert models == kept
    again = sweep(*one, f"keep={keep}", cwd=tmp_path)
    assert "sweep: 3 found done" in again.stdout


# The plan


def test_the_plan_is_made_without_torch_and_writes_nothing(tmp_path):
    grid = ("sweep", *SMALL, "lr=1e-6,2e-5", "method=averaging,flow,talr", "--dry-run")
    assert imported_by(*grid, cwd=tmp_path) == []
    plan = sweep("method=averaging,flow", "merge=none,averaging", "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "runs: 5 to do" in plan.stdout  # base, the run to be averaged, its average; flow twice
    assert "time: unknown" in plan.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_missing_stops_the_sweep_before_it_starts(tmp_path):
    typed = ("model=tiny", "dataset=medcalc", "dataset.path=none.csv", "lr=1e-6,2e-5")
    done = talr("sweep", *typed, cwd=tmp_path)
    assert done.returncode == 2
    assert "dataset.path=none.csv does not exist" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("workers=0",), "workers=0 is outside"),
        (("keep=some",), "keep=some is not one of final, ends, best, none"),
        (("method=sft,tlar",), "did you mean talr?"),
        (("lr=1e-6,0",), "lr=0 is outside"),
    ],
)
def test_a_mistake_is_one_line(typed, expected, tmp_path):
    done = talr("sweep", "model=tiny", *typed, cwd=tmp_path, logger=None)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# Sudden deaths and stops


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The runs of TRAINED as a sweep makes them that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = sweep(*TRAINED, cwd=folder)
    assert done.returncode == 0, done.stderr
    return runs(folder)


def assert_like(uninterrupted, folder):
    found = runs(folder)
    assert found.keys() == uninterrupted.keys()
    for method, run in found.items():
        assert same(weights(run), weights(uninterrupted[method]))


# What a sweep has written when it is killed for the first, the second, ... time.
KILLED_AT = (
    "runs/*/*/*/train.log",
    "runs/*/*/sft-*/metrics.jsonl",
    "runs/*/*/sft-*/checkpoints/*/talr.manifest",
    "runs/*/*/sft-*/training.json",
    "runs/*/*/talr-*/checkpoints/*/talr.manifest",
)


@pytest.mark.slow  # a killed run, and a sweep that is stopped, are among the fast ones
def test_a_killed_sweep_goes_on_and_ends_with_the_same_weights(uninterrupted, tmp_path):
    for written in KILLED_AT:
        process = start(*TRAINED, cwd=tmp_path)
        wait_for(written, tmp_path, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = sweep(*TRAINED, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_like(uninterrupted, tmp_path)


def test_two_sweeps_on_one_study_train_each_run_once(uninterrupted, tmp_path):
    with ThreadPoolExecutor(2) as both:
        for done in both.map(lambda _: sweep(*TRAINED, cwd=tmp_path), range(2)):
            assert done.returncode == 0, done.stdout + done.stderr
    assert_like(uninterrupted, tmp_path)
    for run in runs(tmp_path).values():
        lines = (run / "train.log").read_text().splitlines()
        assert sum(line.startswith("run: ") for line in lines) == 1, "made twice"


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        # The terminal is closed: the kernel says so, and the shell.
        pytest.param([signal.SIGHUP, signal.SIGHUP], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_sweep_finishes_its_step_and_can_be_resumed(uninterrupted, tmp_path, signals):
    process = start(*TRAINED, cwd=tmp_path)
    wait_for("runs/*/*/*/metrics.jsonl", tmp_path, process)
    for one in signals:
        os.killpg(process.pid, one)
    output = process.communicate()[0]
    assert process.returncode == 130
    assert "sweep: 1 interrupted, 1 left" in output
    (run,) = runs(tmp_path).values()
    assert state(run) == "interrupted"
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert [path.name for path in run.glob("checkpoints/*/")] == [f"checkpoint-{steps}"]
    assert steps < 6, "an epoch ended: this says nothing of stops"
    done = sweep(*TRAINED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on from step {steps}" in (run / "train.log").read_text()
    assert_like(uninterrupted, tmp_path)


def test_a_second_stop_ends_all_at_once(tmp_path):
    process = start(*TRAINED, "trainer.epochs=200", cwd=tmp_path)
    wait_for("runs/*/*/*/metrics.jsonl", tmp_path, process)
    (run,) = runs(tmp_path).values()
    trainer = json.loads((run / "status.json").read_text())["pid"]
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(trainer, 0)


@pytest.mark.slow
def test_several_workers_make_the_runs_that_one_makes(uninterrupted, tmp_path):
    done = sweep(*TRAINED, "workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_like(uninterrupted, tmp_path)
