"""Detached sweeps: the text of batch scripts, what of a plan is submitted, what is read back.

The commands of SLURM are stand-ins here: a queue in a file. `test_real_slurm.py` has the real one.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_stand_ins import put, stand_ins, typed

from talr_cli.commands import logs, status, stop, sweep
from talr_cli.config.commands import SlurmConfig
from talr_cli.errors import UserError
from talr_cli.runs.lease import hold
from talr_cli.runs.manifest import MANIFEST
from talr_cli.runs.places import IDENTITY
from talr_cli.runs.run_directory import LOCK, RunDirectory
from talr_cli.sweep import gpus, slurm
from talr_cli.sweep.detached import TEMPLATE, batch_script, queued_jobs
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.overview import study_overview
from talr_cli.sweep.plan import find_models, make_jobs

GRID = ("model=tiny", "method=sft,averaging", "lr=1e-3", "logger=none", "device=cpu")
DETACHED = ("launcher=slurm", "detach=true", "slurm.gpus=0", "slurm.minutes=30")
STUDY = Path("runs/default")


@pytest.fixture
def cluster(tmp_path, monkeypatch, tiny_source):
    """The folder of the stand-ins."""
    folder = stand_ins(tmp_path / "bin", monkeypatch)
    monkeypatch.chdir(tmp_path)
    # A sweep fetches models in a process of its own, which takes seconds to start.
    monkeypatch.setattr(sweep, "find_models", lambda grid, fetch: find_models(grid, fetch=False))
    return folder


def set_states(cluster, *states):
    queue = cluster / "queue"
    parts = [line.split("|", 2) for line in queue.read_text().splitlines()]
    changed = [
        f"{number}|{now}|{rest}\n" for (number, _, rest), now in zip(parts, states, strict=True)
    ]
    queue.write_text("".join(changed))


def planned(*overrides):
    grid = expand_grid([*GRID, *overrides], None)
    return make_jobs(grid, find_models(grid, fetch=False), None)


# The batch script


def test_a_script_asks_for_what_was_typed_and_runs_the_run(cluster):
    _, tuned, averaged = planned()
    config = SlurmConfig(
        partition="gpu", minutes=90, gpus=2, cpus=3, memory="64G", options=["--qos=high"]
    )
    text = batch_script(tuned, config)
    lines = text.splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert {
        *("--time=90", "--gpus-per-node=2", "--cpus-per-task=3", "--mem=64G", "--partition=gpu"),
        *("--qos=high", "--requeue", "--open-mode=append", "--signal=B:USR1@120", "--nodes=1"),
    } <= set(asked)
    run = tuned.directory.path.resolve()
    assert f'--output="{run}/train.log"' in asked
    assert f'--comment="{run}"' in asked
    (srun,) = (line for line in lines if line.lstrip().startswith("srun"))
    words = shlex.split(srun.removesuffix(" &"))
    at = words.index("-m")
    assert words[at - 1] == sys.executable
    assert words[at + 1 :] == ["talr_cli.cli", "train", *tuned.overrides]
    assert "merge.alpha=0.5" in batch_script(averaged, config)
    none = batch_script(tuned, SlurmConfig(gpus=0))
    assert "gpus-per-node" not in none
    assert "--partition" not in none


def test_names_that_a_shell_or_slurm_would_take_apart_stay_whole(cluster, monkeypatch):
    folder = cluster.parent / "100% 'mine' \"x\""
    folder.mkdir()
    monkeypatch.chdir(folder)
    job = planned("eval=false")[0]
    text = batch_script(job, SlurmConfig())
    said = subprocess.run(
        ["bash", "-c", text.partition("{ ")[0].split("export SRUN")[0] + "pwd"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert said.stdout.strip() == str(folder)
    assert "100%% 'mine' \\\"x\\\"/runs/default" in text.split("--output=")[1].splitlines()[0]


def test_several_nodes_meet_at_the_first(cluster):
    job = planned("distributed=fsdp2")[1]
    text = batch_script(job, SlurmConfig(nodes=2, gpus=4))
    assert "srun --nodes=2 --ntasks=2 " in text
    assert "-m torch.distributed.run --nnodes=2 --nproc-per-node=4 " in text
    assert '--rdzv-endpoint="$head:$((29400 + SLURM_JOB_ID % 1000))"' in text
    assert " -m talr_cli.cli train " in text


def test_a_template_of_ones_own_has_the_same_marks(cluster):
    own = cluster.parent / "own.sh"
    job = planned()[0]
    own.write_text("#!/bin/sh\n{{options}}\nmodule load x\nsrun singularity exec i {{arguments}}\n")
    text = batch_script(job, SlurmConfig(template=str(own)))
    assert "srun singularity exec i -m talr_cli.cli eval " in text
    own.write_text("{{options}} {{arguments}} {{nonsense}}")
    with pytest.raises(UserError, match=r"\{\{nonsense\}\} is not a placeholder; there are"):
        batch_script(job, SlurmConfig(template=str(own)))
    own.write_text("#!/bin/sh\n{{options}}")
    with pytest.raises(UserError, match=r"\{\{arguments\}\} is missing"):
        batch_script(job, SlurmConfig(template=str(own)))
    with pytest.raises(UserError, match=r"nowhere\.sh cannot be read"):
        batch_script(job, SlurmConfig(template="nowhere.sh"))


# srun is the run: it ends with 130 when it is asked to. scancel asks it, as SLURM does, and is back
# before it ends or after.
LIVING = {
    "srun": "trap 'exit 130' TERM; echo $$ > step; for i in $(seq 400); do sleep 0.05; done",
    "scancel": """kill -TERM "$(cat step)"
[ -z "$SLOW" ] || while kill -0 "$(cat step)" 2>&-; do sleep 0.01; done""",
    "scontrol": "",
}


def started(cluster, **more):
    """The process of a job's script, as SLURM begins it."""
    text = batch_script(planned("eval=false")[0], SlurmConfig())
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", **more}
    return subprocess.Popen(["bash", "-c", text], env=environment, cwd=cluster.parent)


@pytest.mark.parametrize(
    ("asks", "restarts", "requeued"), [("USR1", 0, 1), ("USR1", 100, 0), ("stop", 0, 0)]
)
@pytest.mark.parametrize("slow", ["", "yes"])
def test_a_job_out_of_time_is_queued_again_and_one_that_is_stopped_is_not(
    slow, asks, restarts, requeued, cluster
):
    for name, body in LIVING.items():
        put(cluster, name, body)
    process = started(cluster, SLURM_RESTART_COUNT=str(restarts), SLOW=slow, POSIXLY_CORRECT="")
    step = cluster.parent / "step"
    while not (step.exists() and step.read_text().strip()):
        time.sleep(0.01)
    if asks == "USR1":
        process.send_signal(signal.SIGUSR1)
    else:
        os.kill(int(step.read_text()), signal.SIGTERM)
    assert process.wait(60) == 130
    again = [line for line in typed(cluster, "scontrol") if "requeue" in line]
    assert again == ["scontrol requeue 7"] * requeued


@pytest.mark.parametrize(
    ("meanwhile", "queued_again"), [("kill -USR1 $PPID; exec /bin/sleep 1", 1), ("exit 0", 0)]
)
def test_a_job_that_waits_for_its_run_hears_of_its_end(meanwhile, queued_again, cluster):
    """Of its time limit, or of `talr stop`, which takes the right to be queued again away."""
    put(cluster, "srun", "exit 75")
    put(cluster, "sleep", meanwhile)
    put(cluster, "scontrol", 'case "$1" in show) echo "   Requeue=0 Restarts=0";; esac')
    put(cluster, "scancel", "")
    assert started(cluster).wait() == 75
    assert len(typed(cluster, "srun")) == 1
    again = [line for line in typed(cluster, "scontrol") if "requeue" in line]
    assert len(again) == queued_again


def test_a_run_that_a_dead_node_still_owns_is_tried_again(cluster):
    put(cluster, "srun", "echo x >> tries; [ $(wc -l < tries) -lt 3 ] && exit 75; exit 0")
    put(cluster, "scontrol", "")
    put(cluster, "sleep", "")
    assert started(cluster).wait() == 0
    assert len(typed(cluster, "srun")) == 3


# Submitting


def submit(*overrides):
    return sweep.main([*GRID, *DETACHED, *overrides])


def test_a_plan_is_submitted_once_and_in_its_order(cluster, capsys):
    assert submit() == 0
    assert "sweep: 3 submitted\njobs: 1, 2, 3\n" in capsys.readouterr().out
    base, tuned, averaged = typed(cluster, "sbatch")
    assert (base, tuned) == ("sbatch --parsable", "sbatch --parsable")
    assert averaged == "sbatch --parsable --dependency=afterok:2 --kill-on-invalid-dep=yes"
    assert {job.number for job in queued_jobs(STUDY).values()} == {"1", "2", "3"}
    assert submit() == 0
    assert "sweep: 3 in the queue" in capsys.readouterr().out
    assert len(typed(cluster, "sbatch")) == 3
    # The base was cancelled, the training runs: what it needs is known from the queue.
    set_states(cluster, "CANCELLED", "RUNNING", "CANCELLED")
    assert submit() == 0
    assert "sweep: 2 submitted, 1 in the queue" in capsys.readouterr().out
    assert "--dependency=afterok:2 " in typed(cluster, "sbatch")[-1]


def test_a_job_that_was_submitted_by_hand_is_recognised(cluster, capsys):
    run = planned()[1].directory.path.resolve()
    (cluster / "queue").write_text(f"99|RUNNING|None|n7|{run}\n8|PENDING|None||/other/place\n")
    assert submit() == 0
    assert "sweep: 2 submitted, 1 in the queue" in capsys.readouterr().out
    assert "--dependency=afterok:99 " in typed(cluster, "sbatch")[-1]


def test_failed_runs_and_what_needs_them_are_not_submitted(cluster, capsys):
    tuned = planned()[1].directory
    tuned.path.mkdir(parents=True)
    tuned.write_status("diverged", "the loss is nan")
    assert submit() == 1
    said = capsys.readouterr().out
    assert "sweep: 1 submitted, 1 failed before, 1 not submitted" in said
    assert submit("retry_failed=true") == 0
    assert "sweep: 1 in the queue, 2 submitted" in capsys.readouterr().out


def test_a_run_that_a_process_makes_is_not_submitted(cluster, capsys):
    job = planned("eval=false")[0]
    job.directory.path.mkdir(parents=True)
    with hold(job.directory.path / LOCK):
        assert submit("eval=false", "method=sft") == 0
    assert "sweep: 1 running elsewhere" in capsys.readouterr().out
    assert typed(cluster, "sbatch") == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("dataset=metamath",),
            "meta-math/MetaMathQA is not in the cache, and the hub",
        ),
        (
            ("model.path=no/model", "model.package=null"),
            "no/model is not in the cache, and the hub",
        ),
        (("launcher=local", "device=cuda"), "device=cuda, and nvidia-smi shows no GPU"),
    ],
)
def test_a_dry_run_says_what_the_start_would_say(overrides, expected, cluster, monkeypatch, no_hub):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cluster.parent / "hub"))
    put(cluster, "nvidia-smi", "exit 9")
    gpus._answer.cache_clear()
    lines = [one for one in GRID if not one.startswith("device=cpu")]
    detached = () if "launcher=local" in overrides else DETACHED
    for also in ((), ("--dry-run",)):
        with pytest.raises(UserError, match=expected):
            sweep.main([*lines, *detached, *overrides, *also])
    assert not Path("runs").exists()


def test_a_suite_whose_data_cannot_be_checked_is_noted(cluster, capsys, no_hub):
    assert submit("suite=paper", "--dry-run") == 0
    assert "note: suite=paper: the hub cannot be reached" in capsys.readouterr().out


def test_a_dry_run_shows_the_script_and_leaves_nothing(cluster, capsys):
    assert submit("--dry-run") == 0
    said = capsys.readouterr().out
    assert "The first of 3 batch scripts" in said
    assert "#SBATCH --job-name=talr-default" in said
    assert not Path("runs").exists()
    assert typed(cluster, "sbatch") == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("launcher=local",), "detach=true needs launcher=slurm"),
        (("keep=best",), "keep=best deletes models"),
        (("detach=false",), "slurm.gpus=0 is for launcher=slurm detach=true"),
        (("hydra.launcher.partition=x",), "with detach=true type slurm.KEY=VALUE"),
        (("slurm.minutes=2",), "slurm.grace=120 s is no shorter than slurm.minutes=2"),
        (("slurm.options=[qos]",), "'qos' is no option"),
        (("slurm.minutes=61",), "61 minutes are more than the 60 that the partition main allows"),
    ],
)
def test_impossible_values_are_refused_in_one_line(overrides, expected, cluster):
    with pytest.raises(UserError, match=expected.replace("'", ".")):
        submit(*overrides)
    assert not Path("runs").exists()


# What SLURM says: texts of version 22.05.
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "slurm.gpus=0"),
        ("allocation failure: Requested node configuration is not available", "slurm.cpus"),
        (
            "sbatch: error: invalid partition specified: x\n"
            "allocation failure: Invalid partition name specified",
            "slurm.partition=NAME",
        ),
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
            "(job submit limit, user's size and/or time limits)",
            "repeat the command later",
        ),
    ],
)
def test_what_slurm_refuses_is_one_line_with_what_to_type(said, expected, cluster):
    put(cluster, "sbatch", f"cat > /dev/null; echo {shlex.quote(said)} >&2; exit 1")
    with pytest.raises(UserError, match=expected) as caught:
        submit()
    assert "\n" not in str(caught.value)


def test_a_machine_without_slurm_says_so(cluster, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch, a command of SLURM, is not on this machine"):
        submit()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("30:00", 30), ("1:00:00", 60), ("2-01:00:00", 2 * 24 * 60 + 60), ("infinite", None)],
)
def test_limits_are_read_as_sinfo_writes_them(limit, minutes, cluster):
    put(cluster, "sinfo", f'echo "main*|{limit}"; echo "other|1:00"')
    assert slurm.refusal("", None, minutes or 10**6) is None
    if minutes:
        assert f"slurm.minutes={minutes}" in slurm.refusal("", None, minutes + 1)
        assert "slurm.minutes=1 " in slurm.refusal("", "other", 2)
        assert slurm.refusal("", "main,other", minutes) is None


# Looking, and stopping


def states(study="default"):
    found = study_overview(Path("runs"), study)
    return {one.path.name.partition("-")[0]: (one.state, one.detail) for one in found.runs}


def test_status_is_told_by_files_and_queue(cluster, capsys):
    submit()
    assert states()["sft"] == ("waiting", "Priority")
    set_states(cluster, "COMPLETED", "RUNNING", "PENDING")
    runs = {
        one.path.name.partition("-")[0]: RunDirectory(one.path)
        for one in study_overview(Path("runs"), "default").runs
    }
    runs["base"].write_status("evaluated")
    runs["sft"].write_status("training")
    runs["sft"].append_metrics(12, {"loss": 1.0})
    now = states()
    assert now["base"] == ("done", "")
    assert now["sft"] == ("running", "on , step 12")
    # Killed and started again: what it has done beyond its checkpoint is lost.
    saved = runs["sft"].checkpoints / "checkpoint-10" / MANIFEST
    saved.parent.mkdir(parents=True)
    saved.touch()
    os.utime(saved, (0, 0))
    for state, kept in (("interrupted", 99), ("failed", 99), ("training", 10)):
        runs["sft"].write_status(state)
        runs["sft"].drop_metrics_after(kept)
        loads = "loading" if state == "training" else "loading or ending"
        assert states()["sft"] == ("running", f"on , {loads}, resumes at step 10")
    runs["sft"].append_metrics(11, {"loss": 1.0})
    assert states()["sft"] == ("running", "on , step 11")
    runs["sft"].append_metrics(12, {"loss": 1.0})
    saved.parent.rename(saved.parent.with_name("checkpoint-12"))
    os.utime(saved.parent.with_name("checkpoint-12") / MANIFEST)
    assert states()["sft"] == ("running", "on , step 12")
    set_states(cluster, "COMPLETED", "TIMEOUT", "CANCELLED")
    assert states()["sft"] == ("stopped", "its job ended: TIMEOUT, step 12")
    assert states()["averaging"] == ("never started", "its job ended: CANCELLED")
    (runs["averaging"].path / "train.log").write_text("talr: no\n")
    assert states()["averaging"][1].startswith("its job ended: CANCELLED: talr logs averaging-")
    # The queue forgets, and this cluster has no accounting.
    (cluster / "queue").write_text("")
    assert states()["sft"] == ("stopped", "no job or process is working on it, step 12")
    assert "keeps no accounting" in "".join(study_overview(Path("runs"), "default").notes)
    put(cluster, "sacct", 'echo "2|CANCELLED by 1000"')
    assert states()["sft"] == ("stopped", "its job ended: CANCELLED, step 12")
    capsys.readouterr()
    status.main(["json=-"])
    answer = json.loads(capsys.readouterr().out)
    assert {one["job"] for one in answer["runs"]} == {"1", "2", "3"}
    runs["sft"].write_status("diverged", "a\nthe loss is nan")
    assert states()["sft"] == ("diverged", "the loss is nan")
    runs["sft"].write_status("trained")  # and to be scored, but for eval=false
    identity = f"{IDENTITY}{runs['sft'].path.name[-8:] * 8}"
    for text, state in (("eval: true", "stopped"), ("eval: [", "stopped"), ("eval: false", "done")):
        runs["sft"].config.write_text(f"{identity}\n{text}\n")
        assert states()["sft"][0] == state
    put(cluster, "squeue", "echo away >&2; exit 1")
    assert "the queue cannot be read: " in "".join(study_overview(Path("runs"), "default").notes)


def test_status_of_a_study_without_slurm_is_that_of_its_files(cluster, monkeypatch):
    run = planned()[1].directory
    run.path.mkdir(parents=True)
    run.write_status("interrupted", "stopped by the user")
    monkeypatch.setenv("PATH", "/nowhere")
    found = study_overview(Path("runs"), "default")
    assert [one.state for one in found.runs] == ["stopped"]
    assert found.notes == []


def test_stop_cancels_waiting_jobs_and_signals_running_ones(cluster, capsys):
    submit()
    set_states(cluster, "RUNNING", "RUNNING", "PENDING")
    stop.main(["study=default"])
    assert typed(cluster, "scancel") == ["scancel 3", "scancel --signal=TERM 1 2"]
    assert typed(cluster, "scontrol") == ["scontrol update JobId=1,2 Requeue=0"]
    stop.main(["study=default", "now=true"])
    assert typed(cluster, "scancel")[2:] == ["scancel 3", "scancel 1 2"]
    with pytest.raises(UserError, match="there is no study runs/nothing"):
        stop.main(["study=nothing"])


def test_what_to_type_next_finds_a_study_wherever_it_lies(cluster, capsys):
    submit("runs_dir=my runs")
    said = capsys.readouterr().out
    next_ones = said.splitlines()[-1].removeprefix("next: ").split("; ")
    assert next_ones[0] == "talr status study=default 'runs_dir=my runs'"
    status.main(shlex.split(next_ones[0])[2:])
    set_states(cluster, "RUNNING", "RUNNING", "PENDING")
    stop.main(shlex.split(next_ones[2])[2:])
    assert "see talr status study=default 'runs_dir=my runs'; " in capsys.readouterr().out
    assert typed(cluster, "scancel")[0] == "scancel 3"


# The second job is queued again before it is asked to end.
TOO_LATE = """
case "$*" in *TERM*)
  sed -i 's/^2|RUNNING/2|PENDING/' "$QUEUE"
  echo "scancel: error: Kill job error on job id 2: Job is pending execution" >&2
  exit 1
esac
"""


def test_stop_finds_each_job_wherever_it_goes_meanwhile(cluster):
    submit()
    set_states(cluster, "RUNNING", "RUNNING", "COMPLETING")
    put(cluster, "scontrol", 'echo "Job has already finished for job 1" >&2; exit 1')
    put(cluster, "scancel", TOO_LATE)
    stop.main(["study=default"])
    assert typed(cluster, "scancel") == ["scancel 3", "scancel --signal=TERM 1 2", "scancel 2"]


def test_a_job_that_may_not_be_stopped_does_not_keep_the_others(cluster):
    submit()
    set_states(cluster, "RUNNING", "RUNNING", "RUNNING")
    put(cluster, "scontrol", 'echo "Access/permission denied for job 1" >&2; exit 1')
    with pytest.raises(UserError, match="Access/permission denied for job 1"):
        stop.main(["study=default"])
    assert typed(cluster, "scancel") == ["scancel --signal=TERM 1 2 3"]


def test_a_waiting_job_that_may_not_be_cancelled_does_not_keep_those_that_run(cluster):
    submit()
    set_states(cluster, "PENDING", "RUNNING", "RUNNING")
    denied = "Kill job error on job id 1: Access/permission denied"
    put(cluster, "scancel", f'case "$*" in 1) echo "scancel: error: {denied}" >&2; exit 1; esac')
    with pytest.raises(UserError, match=denied):
        stop.main(["study=default"])
    assert typed(cluster, "scancel") == ["scancel 1", "scancel --signal=TERM 2 3"]
    gone = "Kill job error on job id 1: Invalid job id specified"
    put(cluster, "scancel", f'case "$*" in 1) echo "scancel: error: {gone}" >&2; exit 1; esac')
    stop.main(["study=default"])


def test_the_job_number_is_found_in_other_output_of_sbatch(cluster):
    put(cluster, "sbatch", "echo '--> Verifying your allocation: OK'; echo; echo '17;one'")
    assert slurm.submit("#!/bin/bash") == "17"
    put(cluster, "sbatch", "echo 'Submitted, thank you'")
    with pytest.raises(UserError, match="'Submitted, thank you' instead of a job number"):
        slurm.submit("#!/bin/bash")
    put(cluster, "sbatch", "true")
    with pytest.raises(UserError, match="instead of a job number"):
        slurm.submit("#!/bin/bash")


def test_malformed_lines_of_squeue_and_sacct_are_left_out(cluster):
    submit()
    run = next(iter(queued_jobs(STUDY)))
    with (cluster / "queue").open("a") as queue:
        queue.write(f"JOBID|STATE|REASON|NODES|{run}\n|RUNNING|None|n1|{run}\n||||\n|||\n")
        queue.write(f"-3|RUNNING|None|n1|{run}\n1_[2-4]|PENDING|None||{run}\n")
    assert {job.number for job in queued_jobs(STUDY).values()} == {"1", "2", "3"}
    put(cluster, "sacct", "printf '1| \\n2|\\n|COMPLETED\\n3|FAILED\\nslurm: banner\\n'")
    assert slurm.final_states(["1", "2", "3"])["3"] == "FAILED"
    (cluster / "queue").write_text("")
    (STUDY / ".slurm" / "jobs.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"run": 3}\n' + b"[" * 10**5)
    assert states()["sft"] == ("never started", "no job or process is working on it")


def test_other_states_and_encodings_in_the_queue_are_no_error(cluster):
    submit()
    set_states(cluster, "REQUEUE_HOLD", "CONFIGURING", "RUNNING")
    with (cluster / "queue").open("ab") as queue:
        queue.write(b"9|RUNNING|None|n1|caf\xe9\n")
    assert {job.number for job in queued_jobs(STUDY).values()} == {"1", "2", "3"}
    assert [states()[name][0] for name in ("base", "sft")] == ["waiting", "waiting"]


def test_logs_are_the_end_of_what_a_run_printed(cluster, capsys):
    submit()
    capsys.readouterr()
    run = planned()[1].directory.path
    with pytest.raises(UserError, match="has no log"):
        logs.main([run.name])
    (run / "train.log").write_text("first\nsecond\n\x1b[31mthird\n")
    logs.main([run.name[:5], "lines=2"])
    assert capsys.readouterr().out == "second\n\\x1b[31mthird\n"
    (run / "train.log").unlink()
    os.mkfifo(run / "train.log")
    with pytest.raises(UserError, match=r"train\.log cannot be read \(it is not a regular file\)"):
        logs.main([run.name])


def test_the_page_shows_the_template_as_it_is():
    page = (Path(__file__).parents[2] / "docs/clusters.md").read_text(encoding="utf-8")
    assert f"```bash\n{TEMPLATE.read_text(encoding='utf-8')}```" in page
