"""What a sweep that waits asks of SLURM. Stand-ins answer; `test_real_slurm.py` has a real one."""

import logging

import pytest
from slurm_stand_ins import put, stand_ins, typed

from talr_cli.config import composition
from talr_cli.interruption import Stop
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep import hydra_launcher
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.waiting import POLL, SlurmWatcher, refusal

SETTINGS = {"timeout_min": 50, "gpus_per_node": 1, "mem_gb": 4, "additional_parameters": {"x": 7}}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    folder = stand_ins(tmp_path / "bin", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return folder


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def queue_is(cluster, *lines):
    (cluster / "queue").write_text("".join(f"{line}\n" for line in lines))


def test_impossible_requests_are_refused_with_values_of_the_launcher(cluster):
    put(cluster, "sbatch", "cat > asked")
    assert refusal(SETTINGS) is None
    asked = (cluster.parent / "asked").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in asked if line.startswith("#SBATCH")}
    assert options == {"--time=50", "--gpus-per-node=1", "--mem=4G", "--x=7"}
    assert (
        refusal({**SETTINGS, "additional_parameters": {"exclusive": True, "mail_user": "a b"}})
        is None
    )
    asked = (cluster.parent / "asked").read_text().splitlines()
    assert {"#SBATCH --exclusive", "#SBATCH --mail-user='a b'"} <= {*asked}  # as submitit has them
    long = refusal({**SETTINGS, "timeout_min": 1440})
    assert "1440 minutes are more than the 60 that the partition main allows" in long
    assert "hydra.launcher.timeout_min=60" in long
    assert "another hydra.launcher.partition" in long
    put(cluster, "sbatch", "cat > asked; echo 'Invalid generic resource (gres)' >&2; exit 1")
    assert "hydra.launcher.gpus_per_node=null asks for none" in refusal(SETTINGS)


def test_states_of_jobs_come_from_squeue_and_changes_are_logged_once(cluster, caplog):
    """And so does the user, once each time that something changes."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    queue = SlurmWatcher("talr", Stop(), clock)
    assert queue.is_empty
    queue_is(cluster, "7_0|RUNNING|None", "7_1|PENDING|Resources", "8|COMPLETED|None", "nonsense")
    for job in ("7", "7_0", "7_1"):  # an array, then its tasks
        queue.register_job(job)
    assert not queue.is_empty
    assert [queue.is_done(job) for job in ("7_0", "7_1")] == [False, False]
    assert queue.get_state("7_1") == "PENDING"
    assert len(typed(cluster, "squeue")) == 1
    queue_is(cluster, "7_1|TIMEOUT|TimeLimit")  # and the first was forgotten
    assert not queue.is_done("7_0")
    clock.now = POLL
    assert [queue.is_done(job) for job in ("7_0", "7_1")] == [True, True]
    assert queue.get_info("7_1", "force") == {"State": "TIMEOUT"}
    put(cluster, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    for times in (2, 3, 4):
        clock.now = times * POLL
        assert queue.is_done("7_1")
    assert typed(cluster, "sacct") == []
    assert [one.getMessage().partition(": squeue: Unable")[0] for one in caplog.records] == [
        "SLURM: 1 pending (Resources), 1 running",
        "SLURM: 1 gone from the queue, 1 timeout",
        "SLURM",
    ]


def test_a_stop_cancels_waiting_jobs_and_signals_running_ones_once(cluster):
    clock, stop = Clock(), Stop()
    queue = SlurmWatcher("talr", stop, clock)
    queue_is(cluster, "7_0|RUNNING|None", "7_1|PENDING|None", "7_2|COMPLETED|None")
    for job in ("7_0", "7_1", "7_2"):
        queue.register_job(job)
    queue.is_done("7_0")
    assert typed(cluster, "scancel") == []
    stop.requested = True
    for _ in range(3):
        queue.is_done("7_0")
    assert typed(cluster, "scancel") == ["scancel 7_1", "scancel --signal=TERM 7_0"]
    assert typed(cluster, "scontrol") == ["scontrol update JobId=7_0 Requeue=0"]
    queue.cancel_all()
    assert typed(cluster, "scancel")[2:] == ["scancel 7_0 7_1"]


@pytest.mark.parametrize(
    ("state", "stopped", "code"),
    [("failed", False, 1), ("training", False, -9), ("pending", True, 130), ("trained", True, 0)],
)
def test_a_job_that_the_cluster_ended_is_what_its_files_say(
    state, stopped, code, tmp_path, monkeypatch
):
    """None is a failure that is not tried again, but one that the run itself has written down."""
    config = composition.load("train", [f"runs_dir={tmp_path}", "eval=false"])
    run = RunDirectory(tmp_path / "s" / "pair" / "run")
    run.path.mkdir(parents=True)
    run.write_status(state)
    job = Job("train", (), config, run, points=())
    monkeypatch.setattr(hydra_launcher, "is_finished", lambda job: state == "trained")
    assert hydra_launcher._exit_code_by_files(job, Stop(requested=stopped)) == code
