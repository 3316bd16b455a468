"""A power loss at any moment of a training: the same command ends with the same weights."""

import hashlib
import os
import shutil

import pytest
import tiny_training
import torch
from power_loss import LOSSES, Recorder
from tiny_training import IDENTITY, STEPS, command

from talr_cli.runs import run_directory
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training import trainer

DONE = STEPS + 1  # after the last step: model/ is there


def content(folder):
    """What lies in a folder, as one text."""
    return "\n".join(
        f"{part.relative_to(folder)} {hashlib.md5(part.read_bytes()).hexdigest()}"
        for part in sorted(folder.rglob("*"))
        if part.is_file()
    )


def start_of(run):
    """(step from which the run goes on, what it goes on from), as the owner of the run finds it."""
    with run.lock():
        run.prepare({}, [], IDENTITY)
        if run.model.exists() and run.read_training():
            return DONE, run.model
        return run.last_checkpoint() or (0, None)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_loss_at_any_moment_of_a_training(tmp_path, monkeypatch, record_property, every):
    """At every moment there is; in the fast set at each ninth, and when something was promised."""
    monkeypatch.setattr(run_directory, "collect_environment", dict)
    run = RunDirectory(tmp_path / "runs" / "sft-0123abcd")
    run.path.mkdir(parents=True)
    promised = []  # (moment, step): from this moment on the run goes on from that step at least
    with monkeypatch.context() as recording:
        recorder = Recorder(run.path, tmp_path / "copies", every, recording)
        seal, write_json = trainer.seal, tiny_training.write_json

        def promise(step):
            promised.append((recorder.calls, step))
            recorder.wanted.add(recorder.calls)

        def sealed(folder):
            seal(folder)
            promise(int(folder.name.rpartition("-")[2]))

        def written(path, value):
            write_json(path, value)
            promise(DONE)

        recording.setattr(trainer, "seal", sealed)
        recording.setattr(tiny_training, "write_json", written)
        expected = command(run)
    assert [step for _, step in promised] == [2, 4, 6, DONE]

    monkeypatch.setattr(os, "fsync", lambda file: None)  # for speed: nothing is lost any more
    seen, resumed = set(), {}
    for number, (copy, contents, names) in recorder.moments.items():
        least = max((step for moment, step in promised if moment <= number), default=0)
        for loss in LOSSES:
            survivor = RunDirectory(tmp_path / "survivor-0123abcd")
            shutil.copytree(copy, survivor.path)
            loss(survivor.path, contents, names)
            (survivor.path / ".lock.owner").unlink(missing_ok=True)  # of this process, which lives
            left = (least, content(survivor.path))
            if left not in seen:
                seen.add(left)
                step, source = start_of(survivor)
                assert step >= least, (number, loss.__name__)
                key = (step, content(source) if source else None)
                if key not in resumed:
                    weights = resumed[key] = command(survivor)
                    assert all(torch.equal(weights[name], expected[name]) for name in expected)
            shutil.rmtree(survivor.path)
    record_property("tried", len(seen))
    assert len(seen) > 150 / every
    steps = sorted(step for step, _ in resumed)
    assert steps == [0, 2, 4, 6, DONE], "of each only the whole one was ever taken"
