"""The validation loss is the mean over the targets, however rows are cut up and dealt to ranks."""

import json

import pytest
import torch
from command_line import in_two_ranks
from datasets import Dataset
from optimizer_step import reference, rows, sft_config, stub_tokenizer, toy

from talr_cli.methods.objectives import Talr
from talr_cli.methods.schedules import Cosine
from talr_cli.training.trainer import MethodTrainer

ROWS = rows(7)  # of 1 to 11 targets


def twice(model, measure):
    """A measure of a model that expects some tokens and not others, and of a duller one."""
    found = []
    for times in (30, 0.2):
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(times)
            found.append(measure())
    return found


def validated(folder, micro, padding_free=False):
    """What the trainer finds before its first step: of TALR, whose weights are no part of it."""
    model = toy()
    arguments = sft_config(folder, per_device_eval_batch_size=micro, padding_free=padding_free)
    plain = [{key: row[key] for key in ("input_ids", "labels")} for row in ROWS]
    trainer = MethodTrainer(
        model=model, args=arguments, objective=Talr(), schedule=Cosine(),
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(plain), eval_dataset=Dataset.from_list(plain),
    )  # fmt: skip
    return twice(model, lambda: trainer.evaluate()["eval_loss"])


def expected():
    model = toy()
    return twice(model, lambda: float(torch.cat([reference(model, row)[0] for row in ROWS]).mean()))


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_the_validation_loss_counts_every_target_once(tmp_path, micro, padding_free):
    assert validated(tmp_path, micro, padding_free) == pytest.approx(expected(), rel=1e-5)


def as_rank(folder):
    found = [validated(folder, micro) for micro in (1, 3)]
    if torch.distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def test_two_ranks_count_no_row_twice(tmp_path):
    """Of 7 rows one rank is dealt one that the other has had."""
    in_two_ranks(as_rank, tmp_path)
    for found in json.loads((tmp_path / "found.json").read_text()):
        assert found == pytest.approx(expected(), rel=1e-5)
