"""Each small file of a run, damaged: one line that names it, or it is made again."""

import errno
import json
import os
import shutil
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from synthetic_study import results

from talr_cli.commands.logs import _read_log
from talr_cli.errors import UserError
from talr_cli.runs import lease
from talr_cli.runs.atomic import BUILDING, atomic_folder, read_gzip_json, write_gzip_json
from talr_cli.runs.checkpoints import ROWS, check_same_rows
from talr_cli.runs.manifest import MANIFEST, digest
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.samples import read_samples
from talr_cli.sweep.detached import submitted_jobs
from talr_cli.sweep.jobs import Job

IDENTITY = "0123abcd" + "0" * 56
DAMAGE = {
    "empty": b"",
    "truncated": b'{"state": "evalu',
    "wrong type": b"[1, 2]",
    "a number": b"7",
    "not text": b"\xff\xfe\x00",
    "other keys": b'{"stat": "evaluated"}',
}
damaged = pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "sft-0123abcd")
    made.path.mkdir()
    return made


@damaged
@pytest.mark.parametrize(
    ("there", "state"),
    [
        ((), "pending"),
        (("metrics.jsonl",), "interrupted"),
        (("metrics.jsonl", "model", "training.json"), "trained"),
        (("metrics.jsonl", "results.json"), "evaluated"),
    ],
)
def test_a_damaged_status_follows_from_the_other_files(run, content, there, state, caplog):
    for name in there:
        if name == "model":
            run.model.mkdir()
        elif name == "results.json":
            run.write_results(results("sft", id=IDENTITY[:8]))
        else:
            (run.path / name).write_text("{}")
    assert run.read_status().state == state  # of one that was deleted too
    run.status.write_text('{"pid": 7}')
    assert run.read_status().state == state
    run.status.write_bytes(content)
    assert run.read_status().state == state
    assert f"{run.status} is damaged" in caplog.text
    with run.lock():
        pass
    assert json.loads(run.status.read_text())["state"] == state
    caplog.clear()
    assert run.read_status().state == state
    assert not caplog.records


@pytest.mark.parametrize(
    "changed", [{"state": "done"}, {"pid": "7"}, {"times": []}, {"reason": 7}, {"host": ["a"]}]
)
def test_a_status_with_a_wrong_value_counts_as_pending(run, changed):
    run.write_status("failed", "reason")
    run.status.write_text(json.dumps({**json.loads(run.status.read_text()), **changed}))
    assert run.read_status().state == "pending"
    run.write_status("training")
    assert run.read_status().state == "training"


@damaged
def test_results_are_refused_and_put_aside_by_the_owner(run, content, caplog):
    run.results.write_bytes(content)
    assert run.read_results() is None
    assert "results.json is damaged" in caplog.text
    caplog.clear()
    with run.lock():
        assert run.read_results() is None
    assert run.results.with_name("results.json.damaged").read_bytes() == content
    assert "it is kept as results.json.damaged" in caplog.text


def test_files_of_another_run_are_not_taken_for_its_own(run, caplog):
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    run.write_results(results("sft", id=IDENTITY[:8]))
    assert run.read_results() is not None
    assert run.read_config() == {"lr": 1e-6}
    run.write_results(results("dft", id="f" * 8))
    assert run.read_results() is None
    assert "results.json belongs to run ffffffff, but its directory is named" in caplog.text
    run.config.write_text(f"# run identity: {'f' * 64}\nlr: 1e-05\n")
    with pytest.raises(UserError, match=r"config\.yaml belongs to run ffffffff"):
        run.read_config()


def test_a_copied_directory_is_no_damage_and_says_how_it_may_be_called(run, tmp_path, caplog):
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    run.write_results(results("sft", id=IDENTITY[:8]))
    for name in ("mine", f"mine-{IDENTITY[:8]}"):
        copy = RunDirectory(shutil.copytree(run.path, tmp_path / name))
        assert copy.read_config() == run.read_config()
        assert copy.read_results() == run.read_results()
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / f"{run.path.name}-deadbeef"))
    said = f"after run deadbeef: if the directory was copied, let its name end with -{IDENTITY[:8]}"
    with pytest.raises(UserError, match=said):
        copy.read_config()
    assert copy.read_results() is None
    assert said in caplog.text
    assert "is damaged" not in caplog.text


def test_a_model_of_another_run_is_not_taken_for_its_own(tmp_path):
    one, other = (RunDirectory(tmp_path / name) for name in ("one", "other"))
    for run in (one, other):
        with atomic_folder(run.model) as building:
            (building / "model.safetensors").write_text(run.path.name)
        made = {"training": {}, "weights": {}, "model": digest(run.model)}
        run.training.write_text(json.dumps(made))
        run.check_model()
    one.model.rename(tmp_path / "aside")
    other.model.rename(one.model)
    (tmp_path / "aside").rename(other.model)
    for run in (one, other):
        for refuse in (run.check_model, lambda run=run: run.prepare({}, [], IDENTITY)):
            with pytest.raises(UserError, match=r"training\.json, but to another run"):
                refuse()
    (one.model / MANIFEST).unlink()  # to use it as it is
    one.check_model()
    del made["model"]  # of a version before
    other.training.write_text(json.dumps(made))
    other.check_model()


@damaged
def test_a_damaged_training_json_is_refused(run, content):
    assert run.read_training() is None
    run.training.write_bytes(content)
    with pytest.raises(UserError, match=r"training\.json .*train this run again"):
        run.read_training()


@damaged
def test_a_damaged_owner_file_names_nobody(run, content):
    with run.lock():
        holder = json.loads((run.path / ".lock.owner").read_text())
    assert not (run.path / ".lock.owner").exists()
    for text in (content, json.dumps({**holder, "pid": str(os.getpid())}).encode()):
        (run.path / ".lock.owner").write_bytes(text)
        assert run.owner() is None
        with run.lock():
            assert run.owner().pid == os.getpid()


@damaged
def test_a_held_lock_with_a_damaged_owner_file_is_in_use(run, content):
    with run.lock():
        (run.path / ".lock.owner").write_bytes(content)
        with pytest.raises(UserError, match="in use by another process"), run.lock():
            pass
    with run.lock():
        pass


def test_without_flock_an_owner_that_cannot_be_read_may_be_writing(run, monkeypatch):
    monkeypatch.setattr(lease, "_flock", lambda path, file: False)
    (run.path / ".lock.owner").write_bytes(b"")
    with pytest.raises(UserError, match="in use"), run.lock():
        pass
    os.utime(run.path / ".lock.owner", (0, 0))
    with run.lock():
        pass


def test_a_row_that_another_process_has_written_too_counts_once(run):
    """A suspended one, as it woke; the row of the validation has the step of a training's."""
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "validation_loss": 3.0}]
    rows += [{"step": 3, "loss": 0.5}]
    late = [{"step": 2, "loss": 1.5}, rows[0]]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows + late))
    assert run.read_metrics() == rows


def test_damaged_rows_of_metrics_are_left_out_with_one_warning(run, caplog):
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    lines = [json.dumps(row) for row in rows]
    lines[1:1] = ["", '{"step": 9, "lo', "[1]", '{"loss": 1}', '{"step": "2"}', "\x00\ufffd"]
    lines[3:3] = ['{"step": 2, "loss": -1e308}', '{"step": 2, "loss": NaN}']
    run.metrics.write_text("\n".join(lines) + '\n{"step": 5')
    assert run.read_metrics() == rows
    (warning,) = caplog.records
    assert warning.getMessage() == f"{run.metrics}: line 2 and 7 more damaged, left out"
    run.drop_metrics_after(3)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]


def test_a_config_that_lost_its_first_line_is_written_again(run, tmp_path, caplog):
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    written = run.config.read_bytes()
    run.config.write_bytes(b"\xff" + written[1:])
    with pytest.raises(UserError, match=r"config\.yaml does not begin with its run identity"):
        run.read_identity()
    run.config.write_text("{}")
    with pytest.raises(UserError, match=r"config\.yaml does not begin with its run identity"):
        run.read_config()
    run.prepare({"lr": 1e-6}, [], IDENTITY)
    assert run.config.read_bytes() == written
    assert "config.yaml" in caplog.text
    run.config.write_bytes(b"")
    with pytest.raises(UserError, match=r"config\.yaml"):
        run.prepare({"lr": 1e-5}, [], "f" * 64)


def test_leftovers_of_killed_processes_go_with_the_next_owner(run):
    left = [
        run.path / f"{BUILDING}model-1" / "half.txt",
        run.path / ".status.json.1.tmp",
        run.samples / ".task.jsonl.1.tmp",
        run.checkpoints / "checkpoint-4" / "optimizer.pt",
    ]
    kept = [run.model / "a.txt", run.samples / "task.jsonl", run.path / "wandb" / ".a.tmp"]
    for file in (*left, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    run.training.write_text("{}")
    with run.lock():
        pass
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in kept)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize("how", ["flipped", "torn", "empty"])
def test_a_cached_value_is_whole_or_made_again(tmp_path, how, caplog):
    path = tmp_path / "losses.json.gz"
    assert read_gzip_json(path) is None
    values = torch.rand(1000).tolist()
    write_gzip_json(path, values)
    assert read_gzip_json(path) == values
    content = path.read_bytes()
    for place in range(10, len(content), 97):
        changed = {
            "flipped": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            "torn": content[:place],
            "empty": b"",
        }[how]
        path.write_bytes(changed)
        assert read_gzip_json(path) is None
        assert str(path) in caplog.text


def pipe(path):
    os.mkfifo(path)


def circle(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


def device(path):
    path.symlink_to("/dev/zero")


def holes(path):
    """More than fits into memory, of which nothing is on the disk."""
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("make", [pipe, circle, folder, device, holes])
def test_pipes_links_folders_and_devices_in_the_place_of_files_are_named(run, make, caplog):
    for path in (run.status, run.metrics, run.results, run.config, run.overrides, run.training):
        make(path)
    run.samples.mkdir()
    make(run.samples / "domain.jsonl")
    make(run.path / ".lock.owner")
    run.model.mkdir()
    make(run.model / "talr.manifest")
    assert read_samples(run.samples, "domain") == run.read_metrics() == []
    assert run.read_results() is run.owner() is None
    run.read_status()
    assert digest(run.model) is None
    for read in (run.read_config, run.read_overrides, run.check_model):
        if make is not circle or read != run.check_model:
            with pytest.raises(UserError, match="cannot be"):
                read()
    if make is not circle:  # a link to nothing is nothing
        for read in (run.read_identity, run.read_training):
            with pytest.raises(UserError, match=r"it is not a regular file|it has 1048576 MiB"):
                read()
    if make is not folder:
        with run.lock():
            pass
        assert not run.results.exists()
        assert run.read_status().state == ("pending" if make is circle else "trained")


def test_files_without_the_right_to_read_are_named(run, monkeypatch, caplog):
    """Of another user's run, in a folder that is shared."""
    files = (run.status, run.metrics, run.results, run.config, run.overrides, run.training)
    samples = run.samples / "domain.jsonl"
    run.samples.mkdir()
    for path in (*files, samples):
        path.write_text("{}")
    really = os.open

    def forbidden(path, *rest, **more):
        if path in (*files, samples):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really(path, *rest, **more)

    monkeypatch.setattr("os.open", forbidden)
    monkeypatch.setattr("os.access", lambda path, how: path not in files)
    assert run.read_status().state == "evaluated"
    assert read_samples(run.samples, "domain") == run.read_metrics() == []
    assert run.read_results() is None
    for name in ("status.json", "domain.jsonl", "metrics.jsonl", "results.json"):
        assert name in caplog.text
    cut = partial(run.drop_metrics_after, 1)
    for read in (run.read_config, run.read_overrides, run.read_identity, run.read_training, cut):
        with pytest.raises(UserError, match=r"Permission denied|its permissions forbid it"):
            read()


@pytest.mark.parametrize("make", [pipe, folder, "the right to read"])
def test_logs_and_the_list_of_submitted_jobs_are_named(run, tmp_path, monkeypatch, make):
    log, submitted = run.path / "train.log", tmp_path / ".slurm" / "jobs.jsonl"
    submitted.parent.mkdir()
    job = Job("train", (), None, run)
    assert (job.last_lines(), submitted_jobs(tmp_path)) == ("", {})
    for path in (log, submitted):
        path.touch() if isinstance(make, str) else make(path)
    if isinstance(make, str):
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        monkeypatch.setattr("os.open", Mock(side_effect=error))
    assert f"{log} cannot be read" in job.last_lines()
    for read in (partial(submitted_jobs, tmp_path), lambda: [*_read_log(log, 5, follow=False)]):
        with pytest.raises(UserError, match=rf"({log}|{submitted}) cannot be read \("):
            read()


def test_damaged_lines_of_the_list_of_submitted_jobs_are_named(tmp_path, caplog):
    submitted = tmp_path / ".slurm" / "jobs.jsonl"
    submitted.parent.mkdir()
    line = b'{"run": "tiny__rows/sft", "job": "7"}\n'
    submitted.write_bytes(b'\xff\x00{"ru\n' + line + b'[1]\n{"run": "b", "jo')
    assert submitted_jobs(tmp_path) == {tmp_path / "tiny__rows/sft": "7"}
    assert f"{submitted}: line 1 and 2 more damaged, left out" in caplog.text


BOMB = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30))


@pytest.mark.parametrize(
    "text",
    [
        f"a0: &a0 [1]\n{BOMB}",
        "a: &a {b: *a}",
        "a: !!bool perhaps",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: 2025-01-01",
        "a: [!!binary aGk=]",
        "a: {!!set {x}: b}",
        "a: !!set {x}",
        f"a: 0x{'f' * 20_000}",
    ],
    ids=[
        *("values of values", "a value of itself", "no truth", "no number", "no time"),
        *("a time", "bytes", "a set as a name", "a set", "a number too long to print"),
    ],
)
def test_yaml_that_no_run_writes_is_damage(run, text):
    run.config.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read .*restore or delete"):
        run.read_config()


def test_a_value_of_any_length_makes_no_long_line(run, caplog):
    run.config.write_text(f"a: !{'x' * 10_000} 1")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read") as error:
        run.read_config()
    run.status.write_text(json.dumps({"state": "x" * 10_000}))
    run.read_status()
    for said in (str(error.value), caplog.text):
        assert len(said.replace(str(run.path), "")) < 600


def test_a_shared_list_is_written_without_aliases_of_yaml(run):
    twice = [1, 2]
    run.prepare({"a": twice, "b": {"c": twice}}, [], IDENTITY)
    assert run.read_config() == {"a": [1, 2], "b": {"c": [1, 2]}}


RECORD = {"id": "1", "messages": [{"role": "user", "content": "2+2?"}], "output": "4"}


@pytest.mark.parametrize(
    "changed",
    [{"messages": {"role": "user"}}, {"messages": "2+2?"}, {"messages": [7]}],
)
def test_samples_of_another_shape_are_left_out_with_one_warning(run, changed, caplog):
    run.samples.mkdir(parents=True)
    lines = [json.dumps(one) for one in (RECORD, {**RECORD, **changed}, RECORD, {})]
    (run.samples / "domain.jsonl").write_text("\n".join(lines))
    assert read_samples(run.samples, "domain") == [RECORD, RECORD]
    assert "domain.jsonl: line 2 and 1 more damaged, left out" in caplog.text


def test_an_impossible_process_number_counts_as_interrupted(run):
    run.write_status("training")
    status = json.loads(run.status.read_text())
    run.status.write_text(json.dumps({**status, "pid": 10**400}))
    assert run.read_status().state == "interrupted"


@damaged
def test_checkpoints_of_other_rows_or_with_a_damaged_digest_are_refused(run, content):
    digest, other = "a" * 64, "b" * 64
    check_same_rows(run.checkpoints, digest)
    with atomic_folder(run.checkpoints / "checkpoint-2") as building:
        (building / "model.safetensors").write_text("weights")
    check_same_rows(run.checkpoints, digest)
    with pytest.raises(UserError, match="was trained on other rows"):
        check_same_rows(run.checkpoints, other)
    (run.checkpoints / ROWS).write_bytes(content)
    with pytest.raises(UserError, match=rf"{ROWS} is damaged \(.*\): delete it if the rows are"):
        check_same_rows(run.checkpoints, digest)
    assert (run.checkpoints / ROWS).read_bytes() == content


def test_nesting_without_end_is_damage(run):
    nested = "[" * 100_000
    for path in (run.status, run.training, run.overrides, run.config):
        path.write_text(f"# run identity: {IDENTITY}\n{nested}")
    run.read_status()
    for read in (run.read_training, run.read_overrides, run.read_config):
        with pytest.raises(UserError):
            read()
    run.status.write_text(nested)
    with run.lock():
        assert run.owner() is not None
    assert run.read_status().state == "pending"
