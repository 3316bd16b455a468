"""A run before its training: how its batches are cut up, on its first start and when it goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from talr_cli import ranks
from talr_cli.config import composition
from talr_cli.data.encoding import TokenRows
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.models import device_memory
from talr_cli.run import fit
from talr_cli.run.prepare import prepare
from talr_cli.training.trainer import STATE

GIB = 2**30


def begun_run(tmp_path, *overrides):
    config = composition.load(
        "train",
        ["model=tiny", "logger=none", "eval=false", "dataset.train_rows=8", "device=cpu",
         f"runs_dir={tmp_path}", *overrides],
    )  # fmt: skip
    return prepare(config)


def planned_trainer(run):
    trainer = fit.plan_batches(run, half=False)
    return trainer.micro_batch_size, trainer.gradient_checkpointing


def checkpoint(run, **state):
    folder = run.directory.checkpoints / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / STATE).write_text(json.dumps(state))
    return folder


def test_a_batch_that_fits_is_whole_and_the_reason_is_logged_once(tmp_path, caplog):
    assert planned_trainer(begun_run(tmp_path)) == (4, False)
    lines = [one.getMessage() for one in caplog.records if "memory:" in one.getMessage()]
    assert len(lines) == 1
    assert "4 of 4 rows at once" in lines[0]


def test_with_too_little_memory_it_warns_and_says_what_to_change(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(device_memory, "free_memory", lambda device: 30 * 2**20)
    planned_trainer(begun_run(tmp_path))
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert any("trainer.max_length" in one and "adapter=lora" in one for one in warnings)


def test_general_rows_longer_than_the_domains_are_counted(tmp_path, monkeypatch):
    """What the domain's rows alone fit into does not hold one of 40,000 tokens that comes along."""
    monkeypatch.setattr(device_memory, "free_memory", lambda device: 80 * 2**20)
    run = begun_run(tmp_path, "method=replay")
    assert planned_trainer(replace(run, general=run.rows[:1])) == (4, False)
    long = Rendered([5] * 40_000, [-100] * 39_990 + [5] * 10)
    assert planned_trainer(replace(run, general=TokenRows([long]))) == (1, True)


def test_layers_that_cannot_be_computed_again_are_not(tmp_path, monkeypatch):
    run = begun_run(tmp_path)
    monkeypatch.setattr(device_memory, "free_memory", lambda device: 2**20)
    assert planned_trainer(run)[1]
    monkeypatch.setattr("transformers.LlamaForCausalLM.supports_gradient_checkpointing", False)
    assert not planned_trainer(run)[1]


def test_a_resumed_run_keeps_its_rows_at_once_and_checkpointing(tmp_path, monkeypatch):
    """Else a machine with more memory would round otherwise than the one that began."""
    run = begun_run(tmp_path)
    folder = checkpoint(run, rows_at_once=2, checkpointing=True)
    monkeypatch.setattr(type(run.directory), "last_checkpoint", lambda self: (1, folder))
    assert planned_trainer(run) == (2, True)
    typed = begun_run(
        tmp_path, "trainer.micro_batch_size=1", "trainer.gradient_checkpointing=false"
    )
    assert planned_trainer(typed) == (1, False)
    (folder / STATE).write_text("{}")  # of a version that did not write it down
    assert planned_trainer(run) == (4, False)
    (folder / STATE).write_text(json.dumps({"rows_at_once": 4, "checkpointing": False}))
    assert planned_trainer(run) == (4, False)
    monkeypatch.setattr(device_memory, "free_memory", lambda device: 2**20)  # a smaller machine
    assert planned_trainer(run) == (4, True)


def test_a_model_that_is_too_large_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(device_memory, "machine_memory", lambda: 2**20)
    run = begun_run(tmp_path)
    with pytest.raises(UserError, match=r"weights, gradient and optimizer alone.*this machine"):
        fit.check_fits(run)
    assert not list(Path(tmp_path).iterdir())


def test_the_rank_with_the_least_memory_decides_whether_a_training_fits(
    tmp_path, monkeypatch, caplog
):
    """The first rank has room enough: the state of a training is whole on every rank of DDP."""
    run = begun_run(tmp_path)
    fit.check_fits(run)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks, "broadcast", lambda value: value)
    monkeypatch.setattr(ranks, "gather", lambda values: [*values, 2**30])
    assert planned_trainer(run) == (2, False)
    folder = checkpoint(run, rows_at_once=4, checkpointing=True)  # of one process
    with monkeypatch.context() as resumed:
        resumed.setattr(type(run.directory), "last_checkpoint", lambda self: (1, folder))
        assert planned_trainer(run) == (2, False)
    with monkeypatch.context() as little:
        little.setattr(device_memory, "free_memory", lambda device: 2**40)
        little.setattr(ranks, "gather", lambda values: [*values, 2**20 + (values != [2**40]) * GIB])
        assert "memory may run out" not in caplog.text
        planned_trainer(run)
        assert "memory may run out" in caplog.text
    monkeypatch.setattr(ranks, "gather", lambda values: [*values, 2**20])
    with pytest.raises(UserError, match=r"optimizer alone, 0\.0 GiB is what this machine has"):
        planned_trainer(run)
