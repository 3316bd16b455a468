"""A damaged checkpoint is named and the one before is taken: the weights of an undamaged run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_line import LONG_ROWS, SMALL, TIMEOUT, same, sealed, talr, train, weights
from tiny_training import EPOCH_STEPS, EPOCHS, IDENTITY, STEPS, rows, trained

from talr_cli.runs.manifest import MANIFEST, seal
from talr_cli.runs.run_directory import RunDirectory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(run with the checkpoints of steps 4 and 6, weights, training) of an undisturbed training."""
    run = RunDirectory(tmp_path_factory.mktemp("whole") / "sft-0123abcd")
    run.path.mkdir()
    model, training = trained(run)
    return run, model.state_dict(), training


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, as it is after a kill in the last moment before model/ is written."""
    return RunDirectory(shutil.copytree(whole[0].path, tmp_path / "sft-0123abcd"))


def gone_on(run):
    with run.lock():
        run.prepare({}, [], IDENTITY)
        model, training = trained(run)
    return model.state_dict(), training


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def change(file, how):
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 0x40
    elif how == "zeros":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    elif how == "torn":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    file.write_bytes(content)
    if how == "missing":
        file.unlink()


def test_two_whole_checkpoints_are_kept(whole):
    run, _, _ = whole
    assert sorted(path.name for path in run.checkpoints.glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert run.last_checkpoint()[0] == STEPS


@pytest.mark.parametrize("how", ["flipped", "zeros", "torn", "empty", "missing"])
def test_damage_to_any_file_costs_one_checkpoint(run, how, caplog):
    """Every file in turn; what lies there is also what is loaded."""
    newest = run.last_checkpoint()[1]
    names = sorted(path.name for path in newest.iterdir())
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(names)
    for name in names:
        kept = shutil.copytree(newest, newest.with_name("kept"))
        change(newest / name, how)
        changed = not (newest / name).exists() or (
            (newest / name).read_bytes() != (kept / name).read_bytes()
        )
        caplog.clear()
        with run.lock():
            run.prepare({}, [], IDENTITY)
        if changed:
            assert run.last_checkpoint()[0] == STEPS - EPOCH_STEPS, name
            assert not newest.exists()
            unfinished = (name, how) == (MANIFEST, "missing")
            said = "is incomplete" if unfinished else "is damaged"
            assert f"checkpoint-6 {said}" in caplog.text
            assert "going on from step 4" in caplog.text
        shutil.rmtree(newest, ignore_errors=True)
        kept.rename(newest)


@pytest.mark.parametrize(
    ("name", "how"),
    [("model.safetensors", "zeros"), ("optimizer.pt", "missing"), ("trainer_state.json", "torn")],
)
def test_the_weights_are_those_of_an_undamaged_run(run, whole, name, how):
    change(run.last_checkpoint()[1] / name, how)
    state, training = gone_on(run)
    assert training["resumed_from_step"] == STEPS - EPOCH_STEPS
    assert equal(state, whole[1])
    assert [row["step"] for row in run.read_metrics() if "loss" in row][:4] == [1, 2, 3, 4]


def test_without_a_whole_checkpoint_the_training_starts_again_and_says_so(run, whole, caplog):
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        change(checkpoint / "optimizer.pt", "flipped")
    state, training = gone_on(run)
    assert training["resumed_from_step"] == 0
    assert equal(state, whole[1])
    for name in ("checkpoint-4", "checkpoint-6"):
        assert f"{name} is damaged: optimizer.pt is not what was written" in caplog.text
    assert "starts from the beginning" in caplog.text


def test_time_tokens_and_memory_include_the_steps_before_an_interruption(run, whole):
    """Tokens by the rows themselves; time and memory of before by what the checkpoint says."""
    _, _, training = whole
    tokens = EPOCHS * sum(len(row["input_ids"]) for row in rows())
    seconds = tokens / training["tokens_per_second"]
    assert seconds == pytest.approx(training["seconds"], abs=0.006)  # which has two decimals

    newest = run.last_checkpoint()[1]
    state = json.loads((newest / "talr_state.json").read_text())
    assert state["spent"]["input_tokens"] == tokens
    state["spent"] |= {"seconds": 100.0, "peak_memory_gib": 99.0}
    (newest / "talr_state.json").write_text(json.dumps(state))
    seal(newest)
    _, again = gone_on(run)
    assert again["resumed_from_step"] == again["timed_steps"] == again["steps"] == STEPS
    assert 100 < again["seconds"] < 1000
    assert again["peak_memory_gib"] == 99.0
    assert again["tokens_per_second"] == pytest.approx(tokens / again["seconds"], abs=0.06)
    assert again["tokens_per_second"] > 0.1
    targets = EPOCHS * sum(label != -100 for row in rows() for label in row["labels"])
    assert again["target_tokens"] == training["target_tokens"] == targets


# Through the command line, with kills


def interrupted(command, cwd, checkpoint):
    """Start it, kill it with SIGKILL once this checkpoint is finished; the checkpoint's folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "talr_cli.cli", "train", *command, "logger=none"],
        cwd=cwd,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + TIMEOUT
    while not (found := sealed(cwd, f"runs/*/*/*/checkpoints/{checkpoint}/{MANIFEST}")):
        assert process.poll() is None, "it ended before this checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    status = json.loads((found[0].parents[2] / "status.json").read_text())
    os.kill(status["pid"], signal.SIGKILL)
    process.wait(timeout=TIMEOUT)
    return found[0].parent


ONE = ("lr=1e-3", "eval=false", "trainer.epochs=3", LONG_ROWS)
WITH_STATE = ("schedule=finch", "merge=ema", "merge.decay=0.8")  # beside the optimizer's
TWO = ("distributed=fsdp2", "distributed.processes=2", "study=fsdp2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "file"),
    [((), "optimizer.pt"), ((*TWO, *WITH_STATE), "optimizer_0/__1_0.distcp")],
    ids=["one", "fsdp2"],
)
def test_a_killed_run_goes_on_from_the_checkpoint_before_a_damaged_one(ranks, file, tmp_path):
    (tmp_path / "whole").mkdir()
    undisturbed = train(*ONE, *ranks, cwd=tmp_path / "whole")
    newest = interrupted((*SMALL, *ONE, *ranks), tmp_path, "checkpoint-12")
    change(newest / file, "flipped")
    done = talr("train", *SMALL, *ONE, *ranks, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint-12 is damaged: {file}" in done.stderr
    run = newest.parents[1]
    training = json.loads((run / "training.json").read_text())["training"]
    assert training["resumed_from_step"] == 6
    if ranks:
        for name, tensor in weights(undisturbed).items():
            torch.testing.assert_close(weights(run)[name], tensor)
    else:
        assert same(weights(run), weights(undisturbed))


@pytest.mark.slow
def test_a_damaged_model_is_named_and_made_again(tmp_path):
    run = train(*ONE, cwd=tmp_path)
    made = {name: tensor.clone() for name, tensor in weights(run).items()}  # no map of the file
    change(run / "model" / "model.safetensors", "flipped")
    done = talr("eval", f"ckpt={run}", "device=cpu", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("talr:"))
    assert "model is damaged: model.safetensors is not what was written" in line
    again = talr("train", *SMALL, *ONE[:1], *ONE[2:], cwd=tmp_path)  # now to be scored
    assert again.returncode == 0, again.stderr
    assert "it is kept as model.damaged, and made again" in again.stderr
    assert same(weights(run), made)
