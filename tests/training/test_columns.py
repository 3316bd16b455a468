"""The columns of the training rows: what is masked, and what the base said of each target."""

import logging
import math
import statistics

import pytest
import torch
from optimizer_step import gradient, reference, relative, rows, toy, trainer_gradient

from talr_cli.data.encoding import TokenRows
from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.methods.method import Method
from talr_cli.methods.objectives import Flow, Sft, Stm, TailSft
from talr_cli.methods.replay import Replay
from talr_cli.models.tokenizer import IGNORED
from talr_cli.training.base_losses import BaseModel
from talr_cli.training.collator import Collator
from talr_cli.training.columns import dataset_of, make_columns

ROWS = [Rendered(row["input_ids"], row["labels"]) for row in rows()]
SHORT = [Rendered([3] * 5, [IGNORED] * 3 + [3] * 2)] * 12
LONG = [Rendered([3] * 40, [IGNORED] * 10 + [3] * 30)]
THRESHOLD = 50.0  # about that of a model of 50 tokens which knows nothing


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    return BaseModel(toy(), "toy", None, "cpu")


def test_stm_trains_the_mean_over_the_targets_that_are_kept(base, tmp_path, caplog):
    """Gradient and divisor in float64 from the definition, however the batch is cut up."""
    made = make_columns(Method(Stm(threshold=THRESHOLD)), ROWS, [], base)
    batch = [*dataset_of(made.rows)]
    model = toy()
    scored = torch.cat([reference(model, row)[0] for row in rows()])
    kept = scored.detach().exp() <= THRESHOLD
    assert 0 < int(kept.sum()) < len(kept)
    (scored * kept).sum().div(kept.sum()).backward()
    expected = gradient(model).clone()
    for micro, padding_free in ((len(batch), False), (1, True)):
        actual, loss = trainer_gradient(toy(), batch, Stm(), tmp_path, micro, padding_free)
        assert loss == pytest.approx(float(scored.detach()[kept].mean()), rel=1e-5)
        assert relative(actual, expected) < 1e-5
    share = 1 - float(kept.double().mean())
    assert made.facts["masked_share"] == pytest.approx(share)
    assert f"masked by the objective: {100 * share:.1f}% of the targets" in caplog.text
    gone = sum(not any(own) for own in kept.split([len(row.targets) for row in ROWS]))
    assert len(batch) == len(ROWS) - gone < len(ROWS)
    assert f"{gone} of {len(ROWS)} training rows are left out" in caplog.text


def test_the_trainers_rows_share_memory_with_the_rendered_ones(base):
    """A copy of a million rows, or a digest of one, is gigabytes in each process."""
    rendered = TokenRows(ROWS)
    made = dataset_of(make_columns(Method(Sft()), rendered, [], base).rows)
    assert made[:] == {
        "input_ids": [row.input_ids for row in ROWS],
        "labels": [row.labels for row in ROWS],
    }
    for name, values in (("input_ids", rendered.ids), ("labels", rendered.labels)):
        (held,) = made.data[name].chunks
        assert held.values.buffers()[1].address == values.buffer_info()[0]


def test_an_objective_that_masks_all_is_refused_in_a_line(base):
    with pytest.raises(UserError, match=r"objective=stm masks every target of the training rows"):
        make_columns(Method(Stm(threshold=1.001)), ROWS, [], base)


@pytest.mark.parametrize(("share", "rows", "level"), [(0.4, 1, "WARNING"), (0.8, 3, "INFO")])
def test_the_share_that_whole_replay_rows_reach_is_logged(share, rows, level, base, caplog):
    """Beside 24 targets in short rows a general row of 30 is more than half of all."""
    made = make_columns(Method(Sft(), replay=Replay(share=share)), SHORT, LONG, base)
    assert sum(map(len, made.rows["replay"])) == rows
    assert made.facts["replayed_share"] == pytest.approx(30 * rows / (30 * rows + 24))
    (record,) = (one for one in caplog.records if one.getMessage().startswith("replay"))
    assert record.levelname == level


def test_a_replay_share_too_small_for_one_row_is_refused(base):
    """It was sft under the name of replay."""
    with pytest.raises(UserError, match=r"0.25 beside the 24 target .* row to replay \(30 tokens"):
        make_columns(Method(Sft(), replay=Replay(share=0.25)), SHORT, LONG, base)


def test_flow_weighs_each_row_by_its_own_base_loss_and_general_rows_too(base):
    general = [Rendered(row["input_ids"], row["labels"]) for row in rows(3, seed=7)]
    made = make_columns(Method(Flow(), replay=Replay(share=0.4)), ROWS, general, base)
    losses = [
        reference(base.model, {"input_ids": one.input_ids, "labels": one.labels})[0].mean().item()
        for one in (*ROWS, *general)
    ]
    tau = statistics.median(losses)
    found = [*made.rows["sequence_weight"], *(row["sequence_weight"] for row in made.general)]
    assert found == pytest.approx([math.exp(-loss / tau) for loss in losses], rel=1e-4)
    assert len(made.rows["sequence_weight"]) == len(ROWS)


def test_base_log_probs_stay_aligned_with_their_targets_in_every_batch(base, caplog):
    """In every batch, with general rows behind those that take them along."""
    general = [Rendered(row["input_ids"], row["labels"]) for row in rows(3, seed=7)]
    method = Method(TailSft(), replay=Replay(share=0.4))
    made = make_columns(method, ROWS, general, base)
    of_rows = [*dataset_of(made.rows)]
    taken = [index for row in of_rows for index in row["replay"]]
    assert len(taken) > 3

    def joined(size, padding_free):
        collate = Collator(pad_token_id=0, padding_free=padding_free, general=made.general)
        targets, log_probs = [], []
        for start in range(0, len(of_rows), size):
            batch = collate([dict(row) for row in of_rows[start : start + size]])
            targets.append(batch["labels"][:, 1:][batch["labels"][:, 1:] != -100])
            log_probs.append(batch["targets"]["base_log_probs"])
        return torch.cat(targets), torch.cat(log_probs)

    order = [
        one
        for row, own in zip(ROWS, of_rows, strict=True)
        for one in (row, *(general[index] for index in own["replay"]))
    ]
    expected = torch.cat(
        [
            -reference(base.model, {"input_ids": one.input_ids, "labels": one.labels})[0]
            for one in order
        ]
    )
    for size, padding_free in ((16, False), (4, True), (1, False)):
        targets, log_probs = joined(size, padding_free)
        assert targets.tolist() == [target for one in order for target in one.targets]
        torch.testing.assert_close(log_probs.double(), expected.detach(), rtol=1e-4, atol=1e-5)
    assert [one.levelno for one in caplog.records] == [logging.INFO]
