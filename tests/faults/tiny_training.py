"""A real training of the toy model in this process, with a checkpoint after each of its epochs."""

import shutil

from datasets import Dataset
from optimizer_step import rows, sft_config, stub_tokenizer, toy
from safetensors.torch import load_file

from talr_cli.interruption import Stop
from talr_cli.methods.objectives import Sft
from talr_cli.methods.optimizers import AdamW
from talr_cli.methods.schedules import Linear
from talr_cli.runs.atomic import atomic_folder, write_json
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.tracking.base import Tracker
from talr_cli.training.loop import train
from talr_cli.training.trainer import MethodTrainer

EPOCHS, EPOCH_STEPS = 3, 2
STEPS = EPOCHS * EPOCH_STEPS
IDENTITY = "0123abcd" + "0" * 56


def trained(
    run,
    optimizer=None,
    objective=None,
    accumulation=1,
    callbacks=(),
    model=None,
    given=None,
    schedule=None,
    **parts,
):
    """(model, training results) of `run`, which goes on from its newest checkpoint.

    `given` are other arguments of TRL's than those here.
    """
    optimizer = optimizer or AdamW()
    arguments = dict(
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=EPOCHS,
        learning_rate=1e-2,
        **optimizer.arguments(),
        logging_steps=1,
        save_strategy="epoch",
    )
    trainer = MethodTrainer(
        model=model or toy(),
        args=sft_config(run.checkpoints, **{**arguments, **(given or {})}),
        optimizer_cls_and_kwargs=optimizer.class_and_arguments(1e-2),
        objective=objective or Sft(),
        schedule=schedule or Linear(warmup_share=0.0),
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(rows()),
        callbacks=list(callbacks),
        **parts,
    )
    return train(trainer, run, Tracker(), Stop(), toy)


def cut_before_the_last_checkpoint(whole, folder):
    """A run in `folder` with the checkpoints of the run `whole` but its newest: one cut short."""
    cut = RunDirectory(folder)
    shutil.copytree(whole.checkpoints, cut.checkpoints)
    _, newest = cut.last_checkpoint()
    shutil.rmtree(newest)
    return cut


def command(run):
    """The steps of `talr train`, in its order: the weights in model/ afterwards."""
    with run.lock():
        run.prepare({}, [], IDENTITY)
        if not (run.model.exists() and run.read_training()):
            model, training = trained(run)
            with atomic_folder(run.model) as building:
                model.save_pretrained(building)
            write_json(run.training, {"training": training, "weights": {}})
            shutil.rmtree(run.checkpoints)
        run.check_model()
        return load_file(run.model / "model.safetensors")
