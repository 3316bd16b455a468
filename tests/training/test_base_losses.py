"""What is computed of the base model is computed as the training computes."""

import pytest
import torch
from conftest import config
from optimizer_step import reference, rows, toy

from talr_cli.data.rendering import Rendered
from talr_cli.run.prepare import prepare
from talr_cli.training import base_losses as scoring
from talr_cli.training.base_losses import BaseModel
from talr_cli.training.loop import Setting, TrainingData, make_trainer

ROWS = rows(6)
RENDERED = [Rendered(row["input_ids"], row["labels"]) for row in ROWS]


def test_base_losses_follow_the_precision_and_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    model = toy()
    plain = torch.stack([reference(model, row)[0].detach().mean() for row in ROWS])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.stack([reference(model, row)[0].detach().float().mean() for row in ROWS])
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5  # which is of the training alone
    for half, expected, other in ((None, plain, rounded), (torch.bfloat16, rounded, plain)):
        losses = BaseModel(model, "toy", half, "cpu").losses(RENDERED)
        assert (losses - expected).abs().max() < 0.1 * (losses - other).abs().max()
    torch.testing.assert_close(BaseModel(model, "toy", None, "cpu").losses(RENDERED), plain.float())
    assert len(list(tmp_path.glob("base_losses/*.json.gz"))) == 2
    assert model.training


@pytest.mark.parametrize("ask", [BaseModel.losses, BaseModel.target_losses])
def test_base_losses_are_read_again_for_the_same_model_and_rows_alone(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    model, asked = toy(), []
    compute = scoring.target_losses
    monkeypatch.setattr(scoring, "target_losses", lambda *given: asked.append(1) or compute(*given))

    def found(fingerprint="toy", rows=RENDERED, dtype=torch.float32):
        base = BaseModel(model.to(dtype), fingerprint, None, "cpu")
        return [one.tolist() for one in ask(base, rows)]

    first = found()
    assert found() == first
    assert len(asked) == 1
    whole = [Rendered(row.input_ids, [-100, *row.input_ids[1:]]) for row in RENDERED]
    for other in ({"fingerprint": "other"}, {"rows": whole}, {"dtype": torch.bfloat16}):
        found(**other)
    assert len(asked) == 4
    assert found() == first


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", None)])
def test_the_base_that_kl_compares_with_has_the_precision_of_the_training(
    precision, dtype, tmp_path, tiny_source, monkeypatch
):
    made = config(
        "train", "model=tiny", "device=cpu", "regulariser=kl", f"trainer.precision={precision}",
        f"runs_dir={tmp_path}", "dataset.train_rows=2", "trainer.batch_size=2",
    )  # fmt: skip
    run = prepare(made)
    model = run.load_base(torch.float32)
    asked = []

    def load_base(wanted):
        asked.append(wanted)
        return run.load_base(wanted)

    trainer = make_trainer(
        Setting(
            made.trainer, made.optimizer, made.schedule, made.lr, made.seed, made.distributed, "cpu"
        ),
        model,
        run.renderer.tokenizer,
        run.method,
        TrainingData(run.rows, [], []),
        run.directory,
        run.source,
        load_base,
        made.model.path,
    )
    trainer._start_regulariser()
    assert asked == [dtype]
