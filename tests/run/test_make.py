"""The weights of a run, made in this process."""

import gc

import torch
from transformers import PreTrainedModel

from talr_cli.config import composition
from talr_cli.run.make import training_of
from talr_cli.run.prepare import prepare
from talr_cli.run.whole import run_to_end
from talr_cli.tracking.base import Tracker
from talr_cli.training.trainer import MethodTrainer


def alive():
    """Models, optimizers and trainers of this process."""
    kinds = (PreTrainedModel, torch.optim.Optimizer, MethodTrainer)
    return {id(one) for one in gc.get_objects() if isinstance(one, kinds)}


def ready(tmp_path, *typed):
    """A run of few rows on a CPU that can be made."""
    always = ["model=tiny", "logger=none", "dataset.train_rows=4", "device=cpu"]
    return prepare(composition.load("train", [*always, f"runs_dir={tmp_path}", *typed]))


def test_model_and_optimizer_are_gone_when_the_training_is_saved(tmp_path):
    """What is scored next needs their memory."""
    run = ready(tmp_path, "method=kl", "trainer.max_steps=1")
    gc.collect()
    before = alive()
    with run.directory.lock():
        run.directory.prepare({}, [], run.identity)
        training_of()(run, Tracker())
    assert (run.directory.model / "model.safetensors").exists()
    assert alive() <= before


def test_steps_count_once_where_a_kill_came_before_the_record_of_the_training(tmp_path):
    """model/ is there and training.json is not: the training is made again, from its start here."""
    run = ready(tmp_path, "eval=false", "trainer.max_steps=2")
    first = run_to_end(run, training_of())
    rows, weights = first.read_metrics(), (first.model / "model.safetensors").read_bytes()
    first.training.unlink()
    first.status.unlink()
    again = run_to_end(run, training_of())
    assert (again.model / "model.safetensors").read_bytes() == weights
    assert [row["step"] for row in again.read_metrics()] == [1, 2]
    assert [row["loss"] for row in again.read_metrics()] == [row["loss"] for row in rows]
    assert again.read_training()["training"]["steps"] == 2


def test_what_needs_saying_once_is_not_said_at_every_save(tmp_path, caplog, recwarn):
    """Where the hub is not reached, by PEFT and by us."""
    typed = ("eval=false", "trainer.epochs=2", "trainer.batch_size=4", "method=lora")
    run_to_end(ready(tmp_path, *typed), training_of())
    ready(tmp_path, *typed)
    assert not [one for one in recwarn if "Could not find a config file" in str(one.message)]
    assert caplog.text.count("cannot be reached, using") <= 1
