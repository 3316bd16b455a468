"""Detached sweeps on a real SLURM, started for it: submit, status, kill, requeue, time limit, ...

Slow, and skipped where there can be no SLURM (slurm_cluster.py). Each test has a study of its own.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TIMEOUT, talr
from slurm_cluster import lacking, slurm

from talr_cli.sweep.detached import TEMPLATE
from talr_cli.sweep.overview import study_overview

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(lacking() is not None, reason=lacking() or "there can be one"),
]
TINY = (
    *("model=tiny", "method=sft", "lr=1e-4", "trainer.max_steps=3", "trainer.batch_size=2"),
    *("limit=2", "dataset.train_rows=8", "suite.tasks=[mini_knowledge]", "domain.max_new_tokens=4"),
    *("logger=none", "device=cpu"),
)
DETACHED = (*("launcher=slurm", "detach=true", "slurm.gpus=0", "slurm.cpus=1", "slurm.minutes=30"),)
WAITING = (
    *("launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.timeout_min=30",),
)
LONG = ("trainer.max_steps=100000", "eval=false")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.fixture
def folder(cluster, tmp_path, monkeypatch):
    """Where the study is; its name has what a shell and SLURM would take apart."""
    monkeypatch.setenv("SLURM_CONF", cluster)
    at = tmp_path / "100% mine"
    at.mkdir()
    monkeypatch.chdir(at)
    yield at
    subprocess.run(["scancel", "--me"], check=True)


def sweep(folder, *overrides, code=0):
    done = talr("sweep", *TINY, *DETACHED, *overrides, cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def standing():
    """{beginning of the run's name: how it stands}; printed as it changes."""
    runs = study_overview(Path("runs"), "default").runs
    return {one.path.name.partition("-")[0]: one for one in runs}


def wait_for(what, name="sft"):
    """Until `what` holds of a run; how it stands then."""
    deadline, before = time.monotonic() + TIMEOUT, ""
    while True:
        one = standing()[name]
        now = f"{one.state}, job {one.job}, {one.detail}"
        if now != before:
            print(f"{time.strftime('%H:%M:%S')} {name}: {now}", flush=True)
            before = now
        if what(one):
            return one
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s; {name} is {now}"
        time.sleep(1)


def jobs(*options):
    """`number state` of every job that the queue knows."""
    command = ["squeue", "--noheader", "--states=all", "--format=%A %T %r", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def change(job, *settings):
    subprocess.run(["scontrol", "update", f"JobId={job}", *settings], check=True)


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def trains(one):
    at = one.detail.rpartition(", ")[2]
    return one.state == "running" and at.startswith("step ") and at != "step 1"


def wait_for_more(path):
    """Until a run is at a step that it had not reached: what is shown of one that starts is old."""
    steps = len(metrics(path))
    return wait_for(lambda one: one.state == "running" and len(metrics(one.path)) > steps)


def kill(path):
    """kill -9 of the process that makes a run."""
    os.kill(json.loads((path / ".lock.owner").read_text())["pid"], signal.SIGKILL)


def test_a_study_is_submitted_once_and_comes_to_its_end(folder):
    said = sweep(folder, "method=sft,averaging")
    print(said)
    assert "sweep: 3 submitted" in said
    assert standing()["averaging"].state == "waiting"
    assert standing()["averaging"].detail == "for the run that it depends on"
    again = sweep(folder, "method=sft,averaging")
    assert "submitted" not in again
    assert len(jobs()) == 3
    averaged = wait_for(lambda one: one.state == "done", "averaging")
    assert {one.state for one in standing().values()} == {"done"}
    tuned = standing()["sft"].path
    training = json.loads((averaged.path / "training.json").read_text())
    assert training["weights"]["averaged"]["of"] == tuned.name
    assert "run directory: " in talr("logs", "sft", cwd=folder, logger=None).stdout
    assert "sweep: 3 found done" in sweep(folder, "method=sft,averaging")
    assert talr("report", cwd=folder, logger=None).returncode == 0
    assert (folder / "runs/default/report/report.html").exists()


def test_a_run_out_of_time_is_queued_again_and_goes_on_and_stops_when_it_is_told_to(folder):
    sweep(folder, *LONG, "slurm.grace=40")
    first = wait_for(trains)
    # Its limit comes now, not while it starts, however long that takes.
    (ran,) = subprocess.run(
        ["squeue", "--noheader", f"--jobs={first.job}", "--format=%M"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    change(first.job, f"TimeLimit={int(ran.split(':')[-2]) + 2}")
    again = wait_for(lambda one: one.detail == "queued again, starts soon")
    assert (again.state, again.job) == ("waiting", first.job)
    log = first.path / "train.log"
    print(log.read_text()[-1500:])
    assert json.loads((first.path / "status.json").read_text())["state"] == "interrupted"
    steps = len(metrics(first.path))
    assert (first.path / f"checkpoints/checkpoint-{steps}").is_dir()
    # SLURM lets a job that is queued again wait for two minutes. Some have to remain: in the second
    # in which its end was reported, the node refuses a new start ("Job credential revoked" in
    # slurmctld's log), and the job counts as failed with exit code 1.
    time.sleep(5)
    change(first.job, "TimeLimit=30", "StartTime=now")
    wait_for(lambda one: one.state == "running" and len(metrics(one.path)) > steps + 2)
    assert [row["step"] for row in metrics(first.path)][: steps + 1] == [*range(1, steps + 2)]
    print(talr("stop", "study=default", cwd=folder, logger=None).stdout)
    stopped = wait_for(lambda one: one.state == "stopped")
    assert "its job ended: FAILED" in stopped.detail
    assert json.loads((first.path / "status.json").read_text())["state"] == "interrupted"
    (line,) = jobs(f"--jobs={first.job}")
    assert line.split()[1] == "FAILED"  # and not queued again


def test_a_run_that_is_killed_is_submitted_again_and_one_submitted_by_hand_is_seen(folder):
    sweep(folder, *LONG)
    one = wait_for(trains)
    kill(one.path)
    killed = wait_for(lambda one: one.state == "stopped")
    assert "sweep: 1 submitted" in sweep(folder, *LONG)
    assert wait_for_more(one.path).job != killed.job
    talr("stop", "study=default", "now=true", cwd=folder, logger=None)
    wait_for(lambda one: one.state == "stopped" and "CANCELLED" in one.detail)
    by_hand = ["sbatch", "--parsable", f"runs/default/.slurm/{one.path.name}.sh"]
    number = subprocess.run(by_hand, capture_output=True, text=True, check=True).stdout.strip()
    assert wait_for(lambda one: one.state in ("waiting", "running")).job == number
    assert "sweep: 1 in the queue" in sweep(folder, *LONG)
    # What an administrator does, and what SLURM does when a node dies.
    wait_for_more(one.path)
    subprocess.run(["scontrol", "requeue", number], check=True)
    wait_for(lambda one: one.state == "waiting")
    change(number, "StartTime=now")
    assert wait_for_more(one.path).job == number


def test_jobs_that_need_a_failed_run_leave_the_queue(folder):
    rate = ("lr=1e30", "trainer.max_grad_norm=1e30", "method=averaging", "eval=false")
    sweep(folder, *rate)
    wait_for(lambda one: one.state == "diverged")
    averaged = wait_for(lambda one: one.state not in ("waiting", "running"), "averaging")
    assert averaged.state == "never started"
    assert "CANCELLED" in averaged.detail
    again = talr("sweep", *TINY, *DETACHED, *rate, cwd=folder)
    assert again.returncode == 1
    assert "1 failed before, 1 not submitted" in again.stdout


with_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None
    or importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="submitit is not installed",
)


@with_submitit
def test_a_sweep_that_waits_comes_to_its_end_without_accounting(folder):
    done = talr("sweep", *TINY, *WAITING, "method=sft,averaging", cwd=folder)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "sweep: 3 done" in done.stdout
    assert "SLURM: " in done.stderr
    assert "sacct" not in done.stderr
    again = talr("sweep", *TINY, *WAITING, "method=sft,averaging", cwd=folder)
    assert "sweep: 3 found done" in again.stdout


@with_submitit
def test_a_sweep_that_waits_takes_its_jobs_along_when_it_is_stopped(folder):
    """What runs writes a checkpoint; what waits leaves the queue."""
    command = [sys.executable, "-m", "talr_cli.cli", "sweep", *TINY, *WAITING, *LONG]
    more = ["lr=1e-4,2e-4,3e-4", "hydra.launcher.array_parallelism=1"]
    with Path("said").open("wb") as said:
        process = subprocess.Popen([*command, *more], stdout=said, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (found := list(folder.glob("runs/default/*/sft-*/metrics.jsonl"))):
            assert process.poll() is None, Path("said").read_text()
            assert time.monotonic() < deadline, f"no step in {TIMEOUT} s"
            time.sleep(1)
    finally:
        process.terminate()
    assert process.wait(TIMEOUT) == 130
    print(Path("said").read_text())
    run = found[0].parent
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert list(run.glob("checkpoints/checkpoint-*"))
    assert not jobs("--states=PENDING,RUNNING")
    assert {one.state for one in study_overview(Path("runs"), "default").runs} == {"stopped"}


@with_submitit
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("hydra.launcher.timeout_min=1440",), "hydra.launcher.timeout_min=60"),
        (("hydra.launcher.gpus_per_node=1",), "hydra.launcher.gpus_per_node=null asks for none"),
    ],
)
def test_what_a_sweep_that_waits_would_wait_for_in_vain_is_one_line(overrides, expected, folder):
    for dry in ((), ("--dry-run",)):
        done = talr("sweep", *TINY, *WAITING, *overrides, *dry, cwd=folder)
        assert done.returncode == 2, done.stdout
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("talr: "))
        assert expected in line
    assert not Path("runs").exists()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_node_without_a_network(folder):
    """A template of one's own gives the run a network of its own, in which there is nothing."""
    own = folder / "own.sh"
    text = TEMPLATE.read_text().replace("{{python}}", "unshare --net {{python}}")
    own.write_text(text.replace("out_of_time=\n", "unshare --net ip link\nout_of_time=\n", 1))
    sweep(folder, f"slurm.template={own}")
    wait_for(lambda one: one.state == "done")


def test_two_nodes_make_one_run(folder):
    both = ("distributed=ddp", "slurm.nodes=2", "eval=false")
    sweep(folder, *both)
    one = wait_for(lambda one: one.state != "waiting" and "on n[1-2]" in one.detail)
    wait_for(lambda one: one.state not in ("waiting", "running"))
    print((one.path / "train.log").read_text()[-1500:])
    assert standing()["sft"].state == "done"
    alone = talr("train", *TINY, "eval=false", "study=alone", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    (same,) = folder.glob("runs/alone/*/*/metrics.jsonl")
    losses = [row["loss"] for row in metrics(one.path)]
    assert losses == pytest.approx([row["loss"] for row in metrics(same.parent)], rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("slurm.gpus=1",), "slurm.gpus=0 asks for none"),
        (("slurm.minutes=61",), "61 minutes are more than the 60 that the partition main allows"),
        (("slurm.partition=nowhere",), "slurm.partition=NAME"),
        (("slurm.cpus=64",), "no node has so much"),
    ],
)
def test_what_this_cluster_cannot_do_is_one_line(overrides, expected, folder):
    for dry in ((), ("--dry-run",)):
        said = sweep(folder, *overrides, *dry, code=2)
        (line,) = (line for line in said.splitlines() if line.startswith("talr: "))
        assert expected in line
    assert not Path("runs").exists()
    assert not any("PENDING" in line for line in jobs("--name=talr-default"))
