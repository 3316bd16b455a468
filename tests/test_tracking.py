"""The real clients of the trackers, offline: what they wrote is read back."""

import errno
import json
import os
import posixpath
import re
import shlex
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from conftest import config
from wandb.proto import wandb_internal_pb2
from wandb_server import wandb_server

from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.run.track import score_changes, start_tracker
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import (
    Ending,
    LoggerConfig,
    RunInfo,
    Tracker,
    check_installed,
    flat_scores,
)
from talr_cli.tracking.mlflow import Mlflow
from talr_cli.tracking.start import start_tracking
from talr_cli.tracking.wandb import Wandb

LOSS = "train/loss_nats_per_token"
BEFORE = [{"step": step, "loss": 1 / step} for step in range(1, 16)]
WHOLE = {step: 1 / step for step in range(1, 36)}
HANG = 120  # seconds; a guard, not a measurement

RESULTS: dict[str, Any] = {
    "schema": 1,
    "run": {"id": "deadbeef", "lr": 1e-6},
    "general": {
        "score": 0.4125,
        "stderr": 0.031,
        "n": 60,
        "suite": "mini",
        "limit": None,
        "tasks": {
            "mini_arithmetic": {
                "metric": "acc",
                "score": 0.4125,
                "stderr": 0.031,
                "n": 60,
                "version": 1,
                "chat_template": True,
                "all": {"acc,none": 0.4125},
            }
        },
    },
    "domain": {"score": 0.7, "groups": {"BMI (kg/m²) < 18": {"score": 0.5}}},
    "drift": None,
    "weights": None,
    "training": None,
    "versions": {"torch": "2"},
}

# Weights that were taken at step 10.
POINT: dict[str, Any] = {
    "general": {"score": 0.4, "stderr": 0.03, "suite": "mini"},
    "domain": {"score": 0.6, "stderr": None},
    "drift": {"kl_from_base": {"score": 0.25, "stderr": 0.01}},
    "training": {"steps": 10},
}
SAMPLE = {
    "id": "row-1",
    "messages": [{"role": "user", "content": "2 + 2?"}],
    "output": "It is 4.",
    "parsed": "4",
    "correct": True,
    "reference": {"answer": "4"},
}

SCRIPT = """
import json, logging, sys
from pathlib import Path
from talr_cli.tracking.base import Ending, RunInfo, LoggerConfig
from talr_cli.tracking.start import start_tracking
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
options = json.loads(sys.argv[1])
tracker = start_tracking(
    RunInfo(
        LoggerConfig(**options["logger"]), run_id="deadbeef", name="talr-lr1e-6-s0",
        group="study-x", job_type="train", tags=["m", "", "t" * 70, "m"],
        config={"lr": 1e-6, "model": {"name": "m"}},
        directory=Path(options["directory"]), history=options["history"],
    )
)
for step in range(options["first"], options["first"] + 20):
    tracker.log(step, {"loss": 1 / step, "grad_norm": float(step)})
if options["scored"]:
    tracker.log_point(options["point"])
    plot = Path(options["plot"]) if options["plot"] else None
    tracker.finish(options["results"], plot, {"change/domain": 0.2}, options["samples"])
else:
    tracker.finish(ending=Ending[options["ending"]])
"""


def track(
    folder: Path,
    *,
    logger: dict[str, Any] | None = None,
    first: int = 1,
    history: list[dict[str, Any]] | None = None,
    plot: Path | None = None,
    scored: bool = True,
    ending: str = "DONE",
    before: str = "",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Track 20 steps in a process that knows no login but what `environment` gives it."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("WANDB") and key != "NETRC"
    }
    directory = folder / "run"
    directory.mkdir(exist_ok=True)
    options = {
        "logger": logger or {},
        "directory": str(directory),
        "first": first,
        "history": history or [],
        "plot": str(plot) if plot else None,
        "results": RESULTS,
        "scored": scored,
        "ending": ending,
        "point": POINT,
        "samples": [SAMPLE] * 60,
    }
    done = subprocess.run(
        [sys.executable, "-c", before + SCRIPT, json.dumps(options)],
        env={**clean, "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("run/wandb/offline-run-*/run-*.wandb"))


def read_records(path: Path) -> Iterator[Any]:
    """The protobuf records of a `.wandb` file: LevelDB's log format behind a 7-byte header."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    block, position, record = 32768, 7, b""
    full, last = 1, 4
    while position + 7 <= len(data):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (full, last):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def read_log(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "files": []}
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= {
                item.key: json.loads(item.value_json) for item in record.run.config.update
            }
        elif kind == "history":
            found["history"].append(as_dict(record.history.item))
        elif kind == "summary":
            found["summary"] |= as_dict(record.summary.update)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
        elif kind == "files":
            found["files"] += [file.path for file in record.files.files]
    return found


def as_dict(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def curve(log: dict[str, Any], metric: str) -> dict[int, float]:
    points = [(row["step"], row[metric]) for row in log["history"] if metric in row]
    assert len(points) == len(dict(points)), "a step was logged twice"
    return dict(points)


def test_without_a_login_everything_is_in_the_offline_log(tmp_path):
    from matplotlib.figure import Figure

    plot = tmp_path / "plot.png"
    Figure().savefig(plot)
    done = track(tmp_path, plot=plot)
    (path,) = logs(tmp_path)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "not logged in" in line
    assert f"wandb sync {shlex.quote(str(path.parent))}" in line

    log = read_log(path)
    run = log["run"]
    assert (run.run_id, run.run_group, run.project) == ("deadbeef", "study-x", "talr")
    assert run.display_name == "talr-lr1e-6-s0"
    assert log["config"]["lr"] == 1e-6
    assert log["config"]["model"] == {"name": "m"}
    assert (run.job_type, sorted(run.tags)) == ("train", ["m", "t" * 64])
    assert curve(log, LOSS) == {step: 1 / step for step in range(1, 21)}
    assert curve(log, "train/grad_norm") == {step: float(step) for step in range(1, 21)}
    points = {key for row in log["history"] for key in row if key.startswith("points/")}
    assert {key: curve(log, key) for key in points} == {
        "points/domain": {10: 0.6},
        "points/general/mini": {10: 0.4},
        "points/general/mini_stderr": {10: 0.03},
        "points/kl_nats_per_token": {10: 0.25},
        "points/kl_nats_per_token_stderr": {10: 0.01},
    }
    assert flat_scores(RESULTS).items() <= log["summary"].items()
    assert log["summary"]["change/domain"] == 0.2
    (table,) = path.parent.glob("files/media/table/answers*.json")
    shown = json.loads(table.read_text())
    assert shown["columns"] == ["id", "prompt", "answer", "read as", "score", "reference"]
    assert shown["data"] == [["row-1", "2 + 2?", "It is 4.", "4", 1.0, '{"answer": "4"}']] * 50
    assert any("media/table/tasks" in file for file in log["files"])
    assert any("media/images/trade-off" in file for file in log["files"])


def test_a_resumed_offline_run_is_one_log_with_the_whole_curve(tmp_path):
    track(tmp_path, scored=False, ending="STOPPED")
    (path,) = logs(tmp_path)
    assert read_log(path)["exit"] == 130  # any but 0 is a failure in W&B
    track(tmp_path, first=16, history=BEFORE)
    (path,) = logs(tmp_path)
    assert read_log(path)["run"].run_id == "deadbeef"
    assert curve(read_log(path), LOSS) == WHOLE
    assert read_log(path)["exit"] == 0


def on_server(server):
    """The curve of the only run, in the order of W&B's own steps."""
    (run,) = server.runs
    rows = server.history(run)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    return curve({"history": rows}, LOSS)


@pytest.mark.parametrize(
    "sent",
    [pytest.param(0, marks=pytest.mark.slow, id="none"), pytest.param(10, id="fewer"), 20],
)
def test_a_resumed_online_run_has_each_step_once_whatever_was_sent_before_the_kill(tmp_path, sent):
    with wandb_server() as server:
        key = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
        server.upsert({"name": "deadbeef", "project": "talr"})
        rows = [
            json.dumps({"_step": step - 1, "step": step, LOSS: 1 / step})
            for step in range(1, sent + 1)
        ]
        server.take("deadbeef", {"wandb-history.jsonl": {"offset": 0, "content": rows}})
        track(tmp_path, first=16, history=BEFORE, **key)
        assert on_server(server) == WHOLE
        assert flat_scores(RESULTS).items() <= server.summary("deadbeef").items()
        assert server.config("deadbeef")["lr"] == 1e-6


def sync(folder, server):
    parts = [str(path.parent) for path in logs(folder)]
    environment = {**os.environ, "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
    command = [sys.executable, "-m", "wandb", "sync", *parts]
    subprocess.run(
        command, env={**environment, "HOME": str(folder)}, check=True, timeout=HANG, cwd=folder
    )


@pytest.mark.slow  # processes of the client, and of its own service
@pytest.mark.parametrize("between", [False, True], ids=["at last", "between"])
def test_offline_parts_of_a_resumed_run_become_one_run_after_a_sync(tmp_path, between):
    with wandb_server() as server:
        track(tmp_path, scored=False)
        if between:
            sync(tmp_path, server)
        track(tmp_path, first=16, history=BEFORE)
        sync(tmp_path, server)
        assert on_server(server) == WHOLE
        assert flat_scores(RESULTS).items() <= server.summary("deadbeef").items()
        files = {name.partition("_")[0] for name in server.runs["deadbeef"]["files"]}
        assert {"media/table/answers", "media/table/tasks", "config.yaml"} <= files


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses_means_offline(tmp_path, status):
    with wandb_server() as server:
        server.refuses = status
        done = track(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=server.url)
    (line,) = done.stderr.splitlines()
    assert "W&B is offline (" in line
    (path,) = logs(tmp_path)
    assert len(curve(read_log(path), LOSS)) == 20


@pytest.mark.slow
def test_rows_that_the_server_refuses_are_one_warning(tmp_path):
    with wandb_server() as server:
        server.refuses_rows = 403
        done = track(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=server.url)
        assert server.history("deadbeef") == []
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING W&B: Fatal error while uploading data.")
    assert "Use `wandb sync`" in line


def test_what_was_not_sent_in_time_is_a_line_with_the_command_that_sends_it(caplog):
    def finish(code):
        raise TimeoutError("Timed out finishing run.")

    run = SimpleNamespace(finish=finish, settings=SimpleNamespace(sync_dir="my runs/run-1"))
    Tracker(Wandb(run, 0)).finish()
    (record,) = caplog.records
    assert "not all was sent in 60 s; for the rest: wandb sync 'my runs/run-1'" in record.message


def test_unreachable_server_means_offline_after_a_bounded_wait(tmp_path):
    done = track(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "offline" in line
    (path,) = logs(tmp_path)
    assert len(curve(read_log(path), LOSS)) == 20


def test_online_without_a_login_does_not_ask(tmp_path):
    done = track(tmp_path, logger={"mode": "online"})
    assert "not logged in" in done.stderr
    assert logs(tmp_path)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_of_the_environment_is_respected(tmp_path, mode):
    # With a key, so that nothing but WANDB_MODE keeps it from the server.
    track(
        tmp_path,
        WANDB_MODE=mode,
        WANDB_API_KEY="a" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
    )
    assert len(logs(tmp_path)) == (mode == "offline")
    assert not list(tmp_path.glob("run/wandb/run-*"))


def test_failing_client_is_one_warning_and_the_run_goes_on(caplog):
    class Broken:
        title = "a tracker"

        def log(self, step, metrics):
            raise BrokenPipeError("the service has gone\nwith details")

    tracker = Tracker(Broken())
    for step in range(3):
        tracker.log(step, {"loss": 1.0})
    tracker.finish(RESULTS, None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the service has gone" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_directory_that_cannot_be_used_is_one_warning(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("a file")
    done = track(tmp_path)
    assert len(done.stderr.splitlines()) == 1


BROKEN_SERVICE = """
import psutil
from talr_cli.tracking import wandb
wandb.FINISH_TIMEOUT = wandb.STUCK = 1.0
log = wandb.Wandb.log
def log_once(self, step, metrics):
    log(self, step, metrics)
    for process in psutil.Process().children() if step == 1 else ():
        process.{signal}()
wandb.Wandb.log = log_once
"""


@pytest.mark.slow  # a process of the client, and of its own service
@pytest.mark.parametrize("signal", ["kill", "suspend"])
def test_a_service_that_is_dead_or_stuck_is_given_up_in_one_line(tmp_path, signal):
    """It would be waited for without end, or this process would end with a traceback."""
    done = track(tmp_path, before=BROKEN_SERVICE.format(signal=signal))
    offline, failed = done.stderr.splitlines()
    assert "W&B is offline" in offline
    assert "WARNING W&B failed, going on without it: " in failed


def test_no_tracking_does_not_import_the_client(tmp_path):
    code = """
import sys
from pathlib import Path
from talr_cli.tracking.base import RunInfo, LoggerConfig
from talr_cli.tracking.start import start_tracking
tracker = start_tracking(
    RunInfo(
        LoggerConfig("none"), run_id="x", name="x", group="x", job_type="train", tags=[],
        config={}, directory=Path("."),
    )
)
tracker.log(1, {"loss": 1.0})
tracker.finish({}, None)
assert not {"wandb", "tensorboard", "mlflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG, cwd=Path.cwd())


def test_an_unfinished_evaluation_has_no_flat_scores():
    empty = dict.fromkeys(("general", "domain", "drift", "weights", "training"))
    assert flat_scores(empty) == {}
    assert flat_scores({**empty, "domain": {"items": {"bmi-1": 1.0}}}) == {}
    assert flat_scores({**empty, "drift": {"kl_from_base": {"score": 0.1, "n": 3}}}) == {
        "drift/kl_from_base/nats_per_token": 0.1,
        "drift/kl_from_base/n": 3,
    }


def tracked(
    folder: Path,
    logger: str,
    first: int = 1,
    history: Any = (),
    ending: Ending = Ending.DONE,
) -> None:
    """Track 20 steps of a run of the study `folder`, in this process."""
    from matplotlib.figure import Figure

    directory = folder / "m__d" / "talr-lr1e-6-s0"
    directory.mkdir(parents=True, exist_ok=True)
    plot = folder / "trade-off.png"
    Figure(figsize=(2, 1), dpi=20).savefig(plot)
    config = {"lr": 1e-6, "model": {"name": "m", "chat_template": "x" * 501}}
    about = RunInfo(
        LoggerConfig(logger),
        "deadbeef",
        "talr-lr1e-6-s0",
        "study-x",
        "train",
        ["m"],
        config,
        directory,
        history,
    )
    tracker = start_tracking(about)
    for step in range(first, first + 20):
        tracker.log(step, {"loss": 1 / step, "entropy": float(step)})
    tracker.finish(RESULTS, plot, ending=ending)


def test_tensorboard_has_the_whole_curve_of_a_resumed_run_once(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    tracked(tmp_path, "tensorboard")
    tracked(tmp_path, "tensorboard", first=16, history=BEFORE)
    found = accumulator(str(tmp_path / "m__d" / "talr-lr1e-6-s0" / "tensorboard"))
    found.Reload()
    points = [(event.step, event.value) for event in found.Scalars(LOSS)]
    assert len(points) == len(WHOLE)
    assert dict(points) == pytest.approx(WHOLE)
    for name, number in flat_scores(RESULTS).items():
        (score,) = found.Scalars(f"scores/{name}")
        assert (score.step, score.value) == (35, pytest.approx(float(number)))
    (picture,) = found.Images("trade-off")
    assert (picture.width, picture.height) == (40, 20)
    (text,) = found.Tensors("tasks/text_summary")
    assert b"| mini_arithmetic | acc | 0.4125 | 0.031 | 60 |" in text.tensor_proto.string_val[0]


def test_a_file_that_tensorboard_cannot_write_is_one_warning(
    tmp_path, monkeypatch, caplog, recwarn
):
    """It writes in a thread, whose traceback Python prints and pytest turns into a warning."""
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    full = mock.Mock(side_effect=[None, None, OSError(errno.ENOSPC, "No space left on device")])
    monkeypatch.setattr(writer, "write", full)
    monkeypatch.setattr("threading.excepthook", threading.excepthook)
    tracked(tmp_path, "tensorboard")
    (record,) = (one for one in caplog.records if one.levelname == "WARNING")
    assert record.message.endswith(
        "going on without it: OSError: [Errno 28] No space left on device"
    )
    assert not [one for one in recwarn if "thread" in str(one.message)]


def test_mlflow_has_one_run_of_a_resumed_run_in_the_studys_own_store(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked(tmp_path, "mlflow", ending=Ending.FAILED)
    found = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = found.get_experiment_by_name("study-x").experiment_id
    (run,) = found.search_runs([experiment])
    assert run.info.status == "FAILED"
    tracked(tmp_path, "mlflow", first=16, history=BEFORE)
    (run,) = found.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("talr-lr1e-6-s0", "FINISHED")
    cut = "x" * 496 + " ..."  # no store refuses 500 characters
    assert run.data.params == {"lr": "1e-06", "model.name": "m", "model.chat_template": cut}
    points = [(one.step, one.value) for one in found.get_metric_history(run.info.run_id, LOSS)]
    assert len(points) == len(WHOLE)
    assert dict(points) == pytest.approx(WHOLE)
    written = str.maketrans(",()<", "____")  # MLflow refuses these in a name
    scores = {name.translate(written): one for name, one in flat_scores(RESULTS).items()}
    assert scores.items() <= run.data.metrics.items()
    files = {file.path for file in found.list_artifacts(run.info.run_id)}
    assert files == {"tasks.json", "trade-off.png"}
    assert not list(tmp_path.rglob("mlruns"))
    # Two runs of a sweep may start at once: to one of them the experiment is not there yet.
    look, looks = client.get_experiment_by_name, []

    def late(self, name):
        looks.append(name)
        return None if len(looks) == 1 else look(self, name)

    monkeypatch.setattr(client, "get_experiment_by_name", late)
    tracked(tmp_path, "mlflow", ending=Ending.STOPPED)
    assert looks == ["study-x"] * 2
    (again,) = found.search_runs([experiment])
    assert again.info.run_id != run.info.run_id
    assert again.info.status == "KILLED"
    # What was logged stays until all of it is there anew.
    monkeypatch.setattr(client, "log_batch", mock.Mock(side_effect=OSError("full")))
    tracked(tmp_path, "mlflow", first=16, history=BEFORE)
    assert again.info.run_id in {one.info.run_id for one in found.search_runs([experiment])}


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_made(logger, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"logger={logger} .*pip install -e '.\[{logger}\]'"):
        check_installed(LoggerConfig(logger))
    check_installed(LoggerConfig())


def test_scoring_a_run_again_keeps_its_training_tags_and_config(tmp_path, monkeypatch):
    monkeypatch.setattr("talr_cli.run.track.start_tracking", lambda about: about)
    made = config("train", "model=tiny", "method=talr", "lr=3e-5", "seed=2", "suite=lite")
    again = config("eval", "model=tiny", "suite.name=quick")
    run, own = RunDirectory(tmp_path / "talr-deadbeef"), RunDirectory(tmp_path / "hub-deadbeef")
    run.prepare(plain(made), [], "deadbeef" + "0" * 56)
    own.prepare(plain(again), [], "deadbeef" + "0" * 56)
    about = start_tracker(again, run, "deadbeef" + "0" * 56)
    assert about.job_type == start_tracker(made, run, "deadbeef").job_type == "train"
    assert about.tags == ["tiny", "medcalc-mini", "suite quick", "talr", "lr 3e-5", "seed 2"]
    assert (about.config["lr"], about.config["trainer"]) == (3e-5, plain(made.trainer))
    assert about.config["suite"]["name"] == "quick"
    assert start_tracker(again, own, "deadbeef").job_type == "eval"


def test_score_changes_are_paired_and_absent_between_unlike_runs():
    def scored(method, right, suite="mini"):
        score = sum(right) / len(right)
        items = {str(number): float(one) for number, one in enumerate(right)}
        section = {"score": score, "stderr": 0.1, "items": items, "items_hash": "a", "limit": None}
        task = {**section, "metric": "acc", "version": 1}
        return {
            "run": {"method": method, "base": "b", "dataset": "d"},
            "domain": section,
            "general": {"score": score, "suite": suite, "limit": None, "tasks": {"sums": task}},
        }

    base, run = scored("base", [1, 0, 0, 0]), scored("sft", [1, 1, 0, 0])
    found = score_changes(base, run)
    assert found["change/domain"] == found["change/general/sums"] == pytest.approx(0.25)
    assert found["change/domain_stderr"] == pytest.approx(0.25)  # one of four items
    assert score_changes(base, base) == score_changes(None, run) == {}
    assert score_changes(base, scored("sft", [1, 1, 0, 0], "paper")).keys() == {
        "change/domain",
        "change/domain_stderr",
        "change/general/sums",
        "change/general/sums_stderr",
    }


@pytest.mark.slow  # each makes a data base
def test_mlflow_has_both_of_two_runs_that_begin_at_once(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    script = """
import sys
from pathlib import Path
from talr_cli.tracking.base import LoggerConfig, RunInfo
from talr_cli.tracking.start import start_tracking
folder = Path(sys.argv[1], "m__d", sys.argv[2])
tracker = start_tracking(
    RunInfo(LoggerConfig("mlflow"), sys.argv[2], sys.argv[2], "x", "train", [], {}, folder)
)
assert tracker.is_on
"""
    starts = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "ab"
    ]
    assert [one.wait(HANG) for one in starts] == [0, 0]
    found = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = found.search_runs([found.get_experiment_by_name("x").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]


NAMES = (
    *("general/tasks/gsm8k/all/exact_match,strict-match", "domain/groups/age < 5/score"),
    *("domain/groups/age > 5/score", "domain/groups/age _ 5/score", "domain/groups//score"),
    *("domain/groups/../score", "domain/groups/./score", "/x", "x/", "", "é" * 300, "é" * 301),
)


def test_names_of_metrics_are_such_as_mlflow_takes_and_stay_different():
    """As MLflow says: some characters only, a path in its normal form, at most 250 characters."""
    backend = Mlflow(None, "run")
    names = [backend.name(one) for one in NAMES]
    assert len(set(names)) == len(NAMES)
    for name in names:
        assert re.fullmatch(r"[\w.\- :/]{1,250}", name)
        assert posixpath.normpath(name) == name
        assert not name.startswith((".", "/"))
    assert names[0] == backend.name(NAMES[0]) == "general/tasks/gsm8k/all/exact_match_strict-match"
    assert backend.name("domain/score") == "domain/score"


@pytest.mark.parametrize("fails", [0, 3, 1000])
def test_mlflow_takes_a_twentieth_of_the_time_and_misses_nothing(fails, monkeypatch, caplog):
    """A server that answers after a second, or is away for some calls, in a training of seconds."""
    now, calls, taken = [0.0], [], []

    class Client:
        def log_batch(self, run, metrics):
            now[0] += 1.0
            calls.append(now[0])
            if len(calls) <= fails:
                raise ConnectionError("no route")
            taken.extend(metrics)

        def set_terminated(self, run, status):
            taken.append(status)

    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr("talr_cli.tracking.mlflow.time", clock)
    made = SimpleNamespace(Metric=lambda name, number, when, step: (step, name, number))
    monkeypatch.setitem(sys.modules, "mlflow.entities", made)
    tracker = Tracker(Mlflow(Client(), "run"))
    for step in range(1, 101):
        now[0] += 1.0
        tracker.log(step, {"loss": 1 / step, "note": "text"})
    assert len(calls) <= 1 + now[0] / 20
    tracker.finish({**RESULTS, "general": None})
    if fails == 1000:
        assert taken == ["FINISHED"]
        assert len(caplog.records) == 2
        return
    points = [(step, number) for step, name, number in taken[:-1] if name == LOSS]
    assert points == [(step, 1 / step) for step in range(1, 101)]
    assert (100, "domain/score", 0.7) in taken
    assert taken[-1] == "FINISHED"
    assert len(caplog.records) == (fails > 0)
