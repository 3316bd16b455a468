"""The weights of a run, made in this process."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import synthetic_study
import torch
from conftest import jsonl
from optimizer_step import reference, toy
from synthetic_study import scored
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from talr_cli.config import composition
from talr_cli.data.rows import Row
from talr_cli.errors import DivergedError, UnwritableError, UserError
from talr_cli.run.execute import is_done, run_to_end
from talr_cli.run.identity import data_identity, identity, setting_identity
from talr_cli.run.make import make_by_averaging, make_by_training
from talr_cli.run.prepare import prepare
from talr_cli.run.record import scoring_identity
from talr_cli.runs.checkpoints import finished
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.pairs import rows_changed, setting_mismatch
from talr_cli.tracking.base import Ending, Tracker
from talr_cli.training.loop import weight_changes
from talr_cli.training.trainer import MethodTrainer


def live_objects():
    """Models, optimizers and trainers of this process."""
    kinds = (PreTrainedModel, torch.optim.Optimizer, MethodTrainer)
    return {id(one) for one in gc.get_objects() if isinstance(one, kinds)}


def prepared_run(tmp_path, *typed):
    """A run of few rows on a CPU that can be made."""
    always = ["model=tiny", "logger=none", "dataset.train_rows=4", "device=cpu"]
    return prepare(composition.load("train", [*always, f"runs_dir={tmp_path}", *typed]))


def test_model_and_optimizer_are_gone_when_the_training_is_saved(tmp_path):
    """What is scored next needs their memory."""
    run = prepared_run(tmp_path, "method=kl", "trainer.max_steps=1")
    gc.collect()
    before = live_objects()
    with run.directory.lock():
        run.directory.prepare({}, [], run.identity)
        make_by_training()(run, Tracker())
    assert (run.directory.model / "model.safetensors").exists()
    assert live_objects() <= before


def test_a_data_set_of_the_hub_that_has_changed_is_told_by_the_hash_of_its_rows(
    tmp_path, monkeypatch
):
    """Its values are the same, and so are the identities that are made of them."""
    typed = ["model=tiny", "logger=none", "device=cpu", "eval=false", f"runs_dir={tmp_path}"]
    typed += ["dataset=jsonl", "dataset.hub_id=lab/qa", "trainer.max_steps=1"]
    runs, made = [], []
    for seed, answers in enumerate(("ab", "ab", "ac")):
        rows = [
            Row(Path("lab/qa"), line, {"prompt": "Which?", "completion": answer})
            for line, answer in enumerate(answers)
        ]
        monkeypatch.setattr("talr_cli.data.jsonl.read_hub", lambda *asked, rows=rows: rows)
        runs.append(prepare(composition.load("train", [*typed, f"seed={seed}"])))
    for run in runs[1:]:
        written = run_to_end(run, make_by_training()).read_training()
        made.append(synthetic_study.results("sft", seed=run.config.seed) | written)
    assert runs[0].rows_hash == made[0]["training"]["rows_hash"]
    assert made[0]["setting"] == made[1]["setting"]
    assert rows_changed(*made)
    assert setting_mismatch(*made) == "they were trained on other data"


def test_an_adapter_names_the_revision_of_its_base(tmp_path):
    """By which PEFT's readers load that base, and not what it is by then."""
    run = prepared_run(
        tmp_path,
        "adapter=lora",
        "model.revision=v1",
        "eval=false",
        "trainer.max_steps=1",
        "lr=1e-3",
    )
    made = run_to_end(run, make_by_training())
    named = json.loads((made.adapter / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == run.config.model.path
    assert named["revision"] == "v1"


def test_steps_count_once_where_a_kill_came_before_the_record_of_the_training(tmp_path):
    """model/ is there and training.json is not: the training is made again, from its start here."""
    run = prepared_run(tmp_path, "eval=false", "trainer.max_steps=2")
    first = run_to_end(run, make_by_training())
    rows, weights = first.read_metrics(), (first.model / "model.safetensors").read_bytes()
    first.training.unlink()
    first.status.unlink()
    again = run_to_end(run, make_by_training())
    assert (again.model / "model.safetensors").read_bytes() == weights
    assert [row["step"] for row in again.read_metrics()] == [1, 2]
    assert [row["loss"] for row in again.read_metrics()] == [row["loss"] for row in rows]
    assert again.read_training()["training"]["steps"] == 2
    shutil.rmtree(again.model)
    with pytest.raises(ZeroDivisionError):
        run_to_end(run, mock.Mock(side_effect=ZeroDivisionError))
    assert again.read_training() is None  # it is of weights that are not there any more


def test_a_killed_training_goes_on_with_its_own_rows_alone(tmp_path):
    """Rows of the hub may be others by then, and a data set of a user's own may shuffle them."""

    class Kill(Tracker):
        def log(self, step, metrics):
            if step == 2:
                raise KeyboardInterrupt

    replayed = ("replay=general", "replay.share=0.5")
    run = prepared_run(
        tmp_path, "eval=false", "trainer.epochs=3", "trainer.batch_size=4", *replayed
    )
    other = prepared_run(tmp_path, *replayed, "seed=1").general  # not all of them are trained on
    assert [*other] != [*run.general]
    assert sorted(map(str, other)) == sorted(map(str, run.general))
    with run.directory.lock():
        run.directory.prepare({}, [], run.identity)
        with pytest.raises(KeyboardInterrupt):
            make_by_training()(run, Kill())
    assert [step for step, _ in finished(run.directory.checkpoints)] == [1]
    for others in ({"rows": run.rows[::-1]}, {"general": run.general[::-1]}):
        with pytest.raises(UserError, match="was trained on other rows, or in another order"):
            run_to_end(replace(run, **others), make_by_training())
    done = run_to_end(run, make_by_training())
    assert done.read_training()["training"]["resumed_from_step"] == 1


def test_the_change_of_the_weights_is_counted_and_measured():
    base, model = toy(), toy()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 3
        model.model.layers[1].mlp.down_proj.weight[0, 0] -= 4
        model.model.embed_tokens.weight[7] *= 1 + 2**-20  # 16 weights, and the head is tied to it
    total = sum(parameter.numel() for parameter in model.parameters())
    found = weight_changes(model, base, torch.bfloat16)
    assert found["changed_share"] == 18 / total
    assert found["changed_share_saved"] == 2 / total
    assert found["distance"] == pytest.approx(5, rel=1e-6)


class Told(Tracker):
    """Keeps what it is told at the end of a run."""

    is_on = True

    def __init__(self):
        self.told = []

    def finish(self, results=None, plot=None, changes=None, samples=(), ending=Ending.DONE):
        self.told.append((ending, results, plot))


def test_the_tracker_is_told_how_the_run_ended(tmp_path, monkeypatch):
    tracker = Told()
    monkeypatch.setattr("talr_cli.run.execute.start_tracker", lambda *about: tracker)
    run = prepared_run(tmp_path, "eval=false")
    errors = {
        KeyboardInterrupt(): ("interrupted", Ending.STOPPED),
        UnwritableError("full"): ("interrupted", Ending.STOPPED),
        DivergedError("loss is nan"): ("diverged", Ending.FAILED),
        ValueError("a bug"): ("failed", Ending.FAILED),
    }
    for error, (state, ending) in errors.items():
        with pytest.raises((KeyboardInterrupt, UserError, ValueError)):
            run_to_end(run, mock.Mock(side_effect=error))
        assert run.directory.read_status().state == state
        assert tracker.told.pop() == (ending, None, None)
    run_to_end(run, mock.Mock())
    assert tracker.told == [(Ending.DONE, None, None)]


def test_a_picture_that_cannot_be_drawn_is_no_failure_of_the_run(tmp_path, monkeypatch, caplog):
    tracker, run = Told(), prepared_run(tmp_path, "suite.drift=false")
    results = scored("sft", [1, 0], {"one": [1, 0]}, id=run.identity[:8])
    broken = mock.Mock(side_effect=ValueError("no such font"))
    monkeypatch.setattr("talr_cli.run.execute.start_tracker", lambda *about: tracker)
    monkeypatch.setattr("talr_cli.run.execute.directory_source", lambda folder: run.source)
    monkeypatch.setattr("talr_cli.run.execute.score", lambda *asked, **named: results)
    monkeypatch.setattr("talr_cli.run.track._plot_tradeoff", broken)
    run_to_end(run, mock.Mock())
    assert tracker.told == [(Ending.DONE, results, None)]
    assert "the tracker gets no picture: ValueError: no such font" in caplog.text
    assert run.directory.read_status().state == "trained"  # as the score here writes none


def test_a_run_keeps_the_loss_of_its_validation_rows_and_what_it_was_trained_on(tmp_path):
    run = prepared_run(
        tmp_path, "eval=false", "trainer.validate=true", "dataset.validation_rows=3", "lr=1e-12",
        "trainer.max_steps=1", "trainer.batch_size=4", "trainer.precision=fp32",
        "dataset.data_seed=1",
    )  # fmt: skip
    done = run_to_end(run, make_by_training())
    found = [row["validation_loss"] for row in done.read_metrics() if "validation_loss" in row]
    model = run.load_base(torch.float32)

    def mean_loss(rows):
        with torch.no_grad():
            return float(torch.cat([reference(model, vars(row))[0] for row in rows]).mean())

    assert found == pytest.approx([mean_loss(run.validation)], rel=1e-5)
    assert found != pytest.approx([mean_loss(run.rows)], rel=1e-4)
    kept = done.read_training()
    assert kept["setting"] == setting_identity(run.config, run.source.fingerprint)
    assert kept["trained_on"] == data_identity(run.config)
    assert kept["training"]["rows_chosen"] == data_identity(run.config, drawn=True)


def test_a_run_is_done_by_its_status_and_by_its_weights_or_scores(tmp_path):
    """Results outlive weights that were damaged and are made again."""
    run = RunDirectory(tmp_path)
    whole, unscored = (
        composition.load("train", ["model=tiny", "suite.drift=false", one])
        for one in ("eval=true", "eval=false")
    )
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    results["scoring"] = scoring_identity(whole)
    run.write_results(results)
    for state, has_weights, of_whole, of_unscored in (
        ("training", True, False, False),
        ("trained", False, False, False),
        ("trained", True, False, True),
        ("evaluated", True, True, True),
    ):
        shutil.rmtree(run.model, ignore_errors=True)
        if has_weights:
            run.model.mkdir()
        run.write_status(state)
        assert (is_done(whole, run), is_done(unscored, run)) == (of_whole, of_unscored), state


@pytest.mark.parametrize("lacking", [{"test": []}, {"scorer": None}], ids=str)
def test_a_domain_score_is_not_dropped_for_want_of_rows_to_score(lacking, tmp_path, caplog):
    run = prepared_run(tmp_path, "suite.drift=false")
    run.directory.prepare({}, [], run.identity)
    before = scored("sft", [1, 0], {"one": [1, 0]}, id=run.identity[:8])
    run.directory.write_results(before)
    run.directory.write_status("evaluated")
    without = replace(run, splits=replace(run.splits, **lacking))
    with pytest.raises(UserError, match="has a domain score, and there are no test rows or no sc"):
        run_to_end(without, make_by_training())
    assert run.directory.read_results() == before
    assert run.directory.read_status().state == "evaluated"


def test_a_quick_look_does_not_replace_scores_of_more_items(tmp_path):
    run = prepared_run(tmp_path, "suite.drift=false", "limit=1")
    run.directory.prepare({}, [], run.identity)
    before = scored("sft", [1, 0], {"one": [1, 0]}, id=run.identity[:8])
    run.directory.write_results(before)
    with pytest.raises(UserError, match="has scores of more items, which stay: leave out limit"):
        run_to_end(run, mock.Mock())
    assert run.directory.read_results() == before


def test_warnings_of_the_hub_are_not_repeated_at_every_save(tmp_path, caplog, recwarn, monkeypatch):
    """Where the hub is not reached, by PEFT and by us."""

    def unreached(*_, **__):
        raise OSError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("peft.utils.other.file_exists", unreached)
    typed = ("eval=false", "trainer.epochs=2", "trainer.batch_size=4", "method=lora")
    run_to_end(prepared_run(tmp_path, *typed), make_by_training())
    prepared_run(tmp_path, *typed)
    said = [str(one.message) for one in recwarn]
    assert not [one for one in said if "config file" in one or "Unable to fetch" in one]
    assert caplog.text.count("cannot be reached, using") <= 1


@pytest.mark.parametrize("merge", ["averaging", "lines"])
def test_a_run_untied_by_its_adapter_is_averaged_with_its_tied_base(merge, tmp_path):
    """The run has a head of its own: the base's is its embedding."""
    typed = ("eval=false", "trainer.max_steps=2", "lr=1e-2", "adapter=lora", "adapter.rank=2")
    typed = (*typed, "adapter.target_modules=[embed_tokens,q_proj]", "trainer.save_dtype=float32")
    tuned = run_to_end(prepared_run(tmp_path, *typed), make_by_training())
    run = prepared_run(tmp_path, *typed, f"merge={merge}")
    merged = run_to_end(run, make_by_averaging(tuned, 0.5))
    base, theta, found = (
        {
            name: one.float()
            for name, one in AutoModelForCausalLM.from_pretrained(folder).state_dict().items()
        }
        for folder in (run.source.directory, tuned.model, merged.model)
    )
    assert not torch.equal(theta["lm_head.weight"], theta["model.embed_tokens.weight"])
    for name, one in found.items():
        last = "layers.1." in name and merge == "lines"
        expected = theta[name] if last else (base[name] + theta[name]) / 2
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-7)


def test_missing_or_too_long_validation_and_replay_rows_are_refused(tmp_path, caplog):
    """Known before anything is written, and left out as bad training rows are."""

    def rows(name, *lengths):
        texts = [{"prompt": "word " * length, "completion": "yes"} for length in lengths]
        (tmp_path / name).write_text(jsonl(texts))
        return str(tmp_path / name)

    def own(*typed):
        always = ["model=tiny", "logger=none", "device=cpu", "dataset=jsonl", "eval=false"]
        always += [f"runs_dir={tmp_path}/runs", f"dataset.train={rows('train.jsonl', 3, 4)}"]
        return prepare(composition.load("train", [*always, "trainer.max_length=100", *typed]))

    validation = f"dataset.validation={rows('validation.jsonl', 5, 200)}"
    with pytest.raises(UserError, match=r"no validation rows: dataset\.validation=FILE"):
        own("trainer.validate=true")
    with pytest.raises(UserError, match=r"no validation rows$"):
        prepared_run(tmp_path, "trainer.validate=true", "dataset.validation_rows=0")
    with pytest.raises(UserError, match="1 of 2 validation rows have no target token"):
        own("trainer.validate=true", validation)
    assert len(own(validation).validation) == 0
    assert "the validation rows are not used: trainer.validate=true" in caplog.text
    skip = ("dataset.on_bad_row=skip", "dataset.max_bad_share=0.5")
    assert len(own("trainer.validate=true", validation, *skip).validation) == 1
    # Nothing skips rows of another file.
    replay = ("replay=general", f"replay.path={rows('general.jsonl', 200)}")
    with pytest.raises(UserError, match=r"1 of 1 replay rows .*; raise trainer.max_length$"):
        own(*replay, *skip)
    with pytest.raises(UserError, match=r"0\.001 beside the \d target .* row to replay"):
        own("replay=general", f"replay.path={rows('short.jsonl', 3)}", "replay.share=0.001")
    assert not (tmp_path / "runs").exists()


def test_no_row_goes_beyond_the_positions_of_the_model(tmp_path):
    """Rows that are trained beside the domain's, and those whose loss is asked for."""
    short, long = ({"prompt": "word " * count, "completion": "yes"} for count in (3, 300))
    for name, row in (("short", short), ("long", long)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    always = ["logger=none", "device=cpu", "dataset=jsonl", "model=tiny", "eval=false"]
    always += ["model.random_init.max_position_embeddings=200"]
    always += [f"runs_dir={tmp_path}", f"dataset.train={tmp_path}/short.jsonl"]
    for what, typed in (
        ("replay", ["replay=general", f"replay.path={tmp_path}/long.jsonl"]),
        ("validation", ["trainer.validate=true", f"dataset.validation={tmp_path}/long.jsonl"]),
    ):
        with pytest.raises(UserError, match=rf"longest of the {what} rows has 3\d\d tokens.*=200"):
            prepare(composition.load("train", [*always, *typed]))


@pytest.mark.parametrize(
    ("objective", "is_other"),
    [
        ("objective=sft", False),
        ("method=talr", False),
        ("objective.tau_scope=microbatch", True),
        ("objective.normalise=true", False),
    ],
)
def test_micro_batch_size_counts_for_the_identity_only_where_weights_depend_on_it(
    objective, is_other
):
    method = ["method=talr", objective] if objective.startswith("objective.") else [objective]

    def named(*typed):
        made = composition.load("train", ["model=tiny", "trainer.batch_size=4", *method, *typed])
        return identity(made, "a model")

    assert (named() != named("trainer.micro_batch_size=2")) is is_other
    assert named() == named("trainer.micro_batch_size=4")  # as without the value


def test_an_adapter_that_cannot_be_put_on_a_kind_of_layer_is_one_line(tmp_path, tokenizer):
    """OFT knows no Conv1D, which GPT-2 is made of."""
    size = {"n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    typed = [f"model.path={tmp_path}/m", "model.name=m", "model.random_init=null", "adapter=oft"]
    with pytest.raises(UserError, match=r"the adapter cannot be put on m: .*Conv1D"):
        prepared_run(tmp_path, *typed)
