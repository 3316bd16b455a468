"""A run directory stays readable and honest through every kind of sudden death."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talr_cli.errors import UserError
from talr_cli.printable import rate_text
from talr_cli.runs.names import begins_with
from talr_cli.runs.process import process_start
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.stored_overrides import current_overrides

IDENTITY = "0123abcd" + "0" * 56


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return run_in(tmp_path)


def run_in(folder: Path, **changes) -> RunDirectory:
    parts = {
        "study": "first",
        "model": "org/small-1B",
        "dataset": "medcalc",
        "method": "talr",
        "lr": 1e-6,
        "seed": 3,
        "identity": IDENTITY,
    }
    return RunDirectory.for_run(folder, **{**parts, **changes})


def start_child(code: str, *arguments: object) -> subprocess.Popen:
    """A Python process that has printed its first line."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    return child


def kill(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)


def test_paths_name_the_run(tmp_path):
    assert run_in(tmp_path).path == (
        tmp_path / "first" / "org-small-1B__medcalc" / "talr-lr1e-6-s3-0123abcd"
    )
    base = run_in(tmp_path, method="base", lr=None, seed=None)
    assert base.path.name == "base-0123abcd"


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("talr-lr2e-4-s3-0123abcd", "talr-lr0.0002-s3", True),
        ("talr-lr2.5e-5-s3-0123abcd", "talr-lr2.5e-05", True),
        ("talr-lr2.5e-5-s3-0123abcd", "talr-lr", True),
        ("talr-lr2.5e-5-s3-0123abcd", "talr-lr3", False),
    ],
)
def test_a_rate_may_be_typed_in_any_notation(name, typed, expected):
    assert begins_with(name, typed) is expected


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1e-4, "1e-4"),
        (5e-06, "5e-6"),
        (0.00025, "2.5e-4"),
        (3 * 1e-5, "3e-5"),
        (1.23e-10, "1.23e-10"),
        (0.009999999, "1e-2"),
        (0.02, "0.02"),
        (1.0, "1"),
        (0.0, "0"),
    ],
)
def test_a_rate_is_written_one_way(rate, text):
    assert rate_text(rate) == text
    assert float(text) == pytest.approx(rate)


@pytest.mark.parametrize("study", ["../else", "a/b", "", "..", "two words"])
def test_study_must_be_a_folder_name(tmp_path, study):
    with pytest.raises(UserError, match="study"):
        run_in(tmp_path, study=study)


# Atomic writes


def test_killed_writer_never_leaves_a_torn_file(tmp_path):
    code = """
import sys
from pathlib import Path
from talr_cli.runs.atomic import write_json
path = Path(sys.argv[1])
for size in range(10**9):
    write_json(path, {"rows": ["x" * 1000] * (size % 300), "end": size})
    if size == 3:
        print("writing", flush=True)
"""
    path = tmp_path / "status.json"
    for attempt in range(8):
        child = start_child(code, path)
        time.sleep(0.013 * attempt)
        kill(child)
        content = json.loads(path.read_text())
        assert len(content["rows"]) == content["end"] % 300


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_litter(run):
    run.path.mkdir(parents=True)
    run.write_results({"score": 1})
    with pytest.raises(TypeError):
        run.write_results({"score": object()})
    assert json.loads(run.results.read_text()) == {"score": 1}
    assert [entry.name for entry in run.path.iterdir()] == ["results.json"]


def test_numbers_that_json_lacks_become_null(run):
    run.path.mkdir(parents=True)
    run.write_results({"stderr": float("nan"), "groups": [float("inf"), 0.5]})
    assert json.loads(run.results.read_text()) == {"stderr": None, "groups": [None, 0.5]}


# Identity


def test_values_come_back_as_they_were_written(run):
    config = {
        "lr": 1e-05,
        "large": 1e16,
        "rate": 0.5,
        "whole": 3,
        "off": False,
        "nothing": None,
        "text": {"number": "1e-05", "yes": "yes", "line": "a\nb: [c]", "name": "größer"},
        "list": ["lr=1e-05", "", "null"],
    }
    run.prepare(config, ["lr=1e-05", "model.name=a: b", "prompt='x\ny'"], IDENTITY)
    assert run.read_identity() == IDENTITY
    assert run.read_config() == config
    assert type(run.read_config()["lr"]) is type(run.read_config()["large"]) is float
    assert run.read_overrides() == ["lr=1e-05", "model.name=a: b", "prompt='x\ny'"]


@pytest.mark.parametrize("content", ["", "- a", "a: [", "!!python/object/apply:os.getcwd []"])
def test_an_invalid_config_yaml_is_named_in_one_line(run, content):
    run.path.mkdir(parents=True)
    run.config.write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read") as error:
        run.read_config()
    assert "\n" not in str(error.value)


def test_prepare_writes_what_the_run_is(run):
    run.prepare({"lr": 1e-6, "model": {"name": "m"}}, ["method=talr"], IDENTITY)
    assert run.read_identity() == IDENTITY
    assert "lr: 1.0e-06" in run.config.read_text()
    assert run.overrides.read_text() == "- method=talr\n"
    environment = json.loads(run.environment.read_text())
    assert environment["packages"]["trl"]
    assert environment["cpu"]
    assert run.read_status().state == "pending"


def test_prepare_again_keeps_the_status(run):
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    run.write_status("trained")
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    assert run.read_status().state == "trained"


def test_directory_of_another_run_is_refused(run):
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    with pytest.raises(UserError, match="different run"):
        run.prepare({"lr": 1e-5}, [], IDENTITY[:8] + "f" * 56)
    assert "lr: 1.0e-06" in run.config.read_text()


def test_prepare_without_git_and_outside_a_repository(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    run.prepare({}, [], IDENTITY)
    assert json.loads(run.environment.read_text())["git_commit"] is None


# Status

TRAIN_FOREVER = """
import sys, time
from pathlib import Path
from talr_cli.runs.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
with run.lock():
    run.write_status("training")
    print("training", flush=True)
    time.sleep(120)
"""


def test_status_of_a_killed_trainer_is_interrupted(run):
    run.path.mkdir(parents=True)
    child = start_child(TRAIN_FOREVER, run.path)
    try:
        status = run.read_status()
        assert (status.state, status.pid) == ("training", child.pid)
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert run.read_status().state == "interrupted", "a dead child that nobody waited for"
    finally:
        kill(child)
    assert run.read_status().state == "interrupted"


def test_number_used_again_by_another_process_is_interrupted(run):
    run.path.mkdir(parents=True)
    run.write_status("training")
    assert run.read_status().state == "training"
    written = json.loads(run.status.read_text())
    run.status.write_text(json.dumps({**written, "process_start": "1"}))
    assert run.read_status().state == "interrupted"


def test_status_of_another_host_is_believed_while_its_owner_lives(run):
    with run.lock():
        run.write_status("training")
        written = json.loads(run.status.read_text())
        run.status.write_text(json.dumps({**written, "host": "elsewhere", "process_start": "1"}))
        assert run.read_status().state == "training"
    assert run.read_status().state == "interrupted"


def test_reason_and_times_are_kept(run):
    run.path.mkdir(parents=True)
    assert run.read_status().state == "pending"
    run.write_status("training")
    run.write_status("diverged", reason="\n".join(f"line {i}" for i in range(100)))
    status = run.read_status()
    assert status.state == "diverged"
    assert status.reason is not None
    assert status.reason.endswith("line 99")
    assert "line 1\n" not in status.reason
    assert list(status.times) == ["training", "diverged"]


def test_process_start_tells_the_living_from_the_dead():
    assert process_start(os.getpid()) == process_start(os.getpid())
    child = start_child("print(1, flush=True); input()")
    kill(child)
    assert process_start(child.pid) is None


# Metrics


def test_resumed_curve_has_every_step_once(run):
    run.path.mkdir(parents=True)
    for step in range(1, 8):
        run.append_metrics(step, {"loss": 1 / step})
    with run.metrics.open("a") as file:
        file.write('{"step": 8, "lo')
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5, 6, 7]

    run.drop_metrics_after(5)
    for step in range(6, 9):
        run.append_metrics(step, {"loss": 0.0})
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[4] == {"step": 5, "loss": 0.2}
    assert rows[5] == {"step": 6, "loss": 0.0}


def test_line_torn_inside_a_number_is_not_read_as_a_smaller_number(run):
    run.path.mkdir(parents=True)
    run.metrics.write_text('{"step": 1, "loss": 2.5}\n12')
    assert run.read_metrics() == [{"step": 1, "loss": 2.5}]


def test_dropping_metrics_of_a_run_without_any_does_nothing(run):
    run.drop_metrics_after(0)
    assert run.read_metrics() == []


# Lock


def test_second_process_is_told_who_holds_the_run(run):
    child = start_child(TRAIN_FOREVER, run.path)
    try:
        with pytest.raises(UserError, match=f"pid {child.pid} on "), run.lock():
            pass
    finally:
        kill(child)
    with run.lock():
        pass


def test_lock_is_free_after_use_and_after_an_error(run):
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock(), pytest.raises(UserError, match="in use"), run.lock():
        pass
    with run.lock():
        pass


def test_forked_worker_that_outlives_a_killed_trainer_does_not_hold_the_lock(run):
    code = """
import os, sys, time
from pathlib import Path
from talr_cli.runs.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(120)
        os._exit(0)
    time.sleep(120)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    kill(child)
    try:
        assert process_start(worker) is not None
        with run.lock():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    ("made", "there", "now"),
    [
        (("s", "runs"), "runs/s", []),
        (("s", "runs"), "project/runs/s", []),  # to be typed in that folder
        (("s", "runs"), "runs/t", ["study=t"]),
        (("s", "runs"), "moved/s", ["runs_dir={root}/moved"]),
        (("s", "my runs"), "my runs/s", []),
        (("s", "{root}/runs"), "runs/s", []),
        (("s", "/nowhere/runs"), "runs/t", ["study=t", "runs_dir={root}/runs"]),
        (("s", "~no-such-user/runs"), "runs/s", ["runs_dir={root}/runs"]),
        (("s", "{root}/circle/runs"), "runs/s", ["runs_dir={root}/runs"]),
    ],
)
def test_current_overrides_follow_a_moved_or_renamed_study(made, there, now, tmp_path):
    study, runs_dir = (one.format(root=tmp_path) for one in made)
    (tmp_path / "circle").symlink_to("circle")
    typed = ["lr=1e-3", f"study={study}", f"runs_dir={runs_dir}"]
    run = RunDirectory(tmp_path / there / "m__d" / "sft-01234567")
    values = {"lr": 1e-3, "study": study, "runs_dir": runs_dir, "model": {"name": "study: x"}}
    run.prepare(values, typed, "01234567" + "0" * 56)
    now = [one.format(root=tmp_path) for one in now]
    keys = {one.partition("=")[0] for one in now}
    kept = [one for one in typed if one.partition("=")[0] not in keys]
    assert current_overrides(run) == [*kept, *now]
    alone = RunDirectory(tmp_path / "sft-01234567")
    alone.prepare(values, typed, "01234567" + "0" * 56)
    assert current_overrides(alone) == typed
