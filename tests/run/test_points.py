"""Points along a training: each is the training that ends there, and none is trained twice."""

import json
import math
from types import SimpleNamespace

import pytest
from command_line import SMALL, same, weights
from conftest import config

from talr_cli.commands import eval as eval_command
from talr_cli.commands import train as command
from talr_cli.errors import UserError
from talr_cli.run import make
from talr_cli.run.variants import points_along
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.pairs import run_label, trajectories
from talr_cli.training.points import step_at

FAST = (*SMALL, "logger=none", "suite.tasks=[mini_python]", "suite.drift=false", "lr=1e-3")


@pytest.fixture
def train(tmp_path, capsys, monkeypatch):
    """`talr train`; the run directories that it names."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        command.main([*FAST, *overrides])
        lines = capsys.readouterr().out.splitlines()
        return [
            RunDirectory(tmp_path / line.removeprefix("run directory: "))
            for line in lines
            if line.startswith("run directory: ")
        ]

    return run


def weights_written_at(run):
    return (run.model / "model.safetensors").stat().st_mtime_ns


def training_results(run):
    return json.loads(run.training.read_text())


LATER = ("lora", "oft", "finch", "tailsft", "talr-shuffled")


@pytest.mark.parametrize(
    "method", ["sft", "talr", "ema", *(pytest.param(one, marks=pytest.mark.slow) for one in LATER)]
)
def test_a_point_is_the_training_that_ends_there(method, train):
    typed = (f"method={method}", "eval=false")
    early, late, whole = train(*typed, "score_at=[0.5,0.1]", "study=together")
    assert [training_results(run)["training"]["steps"] for run in (early, late, whole)] == [
        1,
        6,
        12,
    ]
    assert training_results(early)["weights"]["taken"] == {"at": 0.1, "of": whole.path.name}
    assert len({training_results(run)["setting"] for run in (early, late, whole)}) == 1
    (alone,) = train(*typed, "at=0.1", "study=alone")
    assert alone.path.name == early.path.name
    assert same(weights(alone.path), weights(early.path))
    if method in ("talr", "ema", "finch", "tailsft"):  # which have a state of their own
        (undisturbed,) = train(*typed, "study=alone")
        assert undisturbed.path.name == whole.path.name
        assert same(weights(undisturbed.path), weights(whole.path))
    assert not same(weights(late.path), weights(whole.path))


def test_a_point_does_not_change_the_dropout_of_the_steps_behind_it(train):
    typed = ("method=lora", "adapter.dropout=0.5", "eval=false", "trainer.max_steps=4")
    (undisturbed,) = train(*typed, "study=alone")
    _, whole = train(*typed, "score_at=[0.5]", "study=together")
    assert undisturbed.path.name == whole.path.name
    assert same(weights(undisturbed.path), weights(whole.path))


def test_a_tracker_keeps_the_curve_of_the_points_when_a_run_is_scored_again(train, tmp_path):
    client = pytest.importorskip("mlflow").MlflowClient
    _, whole = train("score_at=[0.5]", "logger=mlflow", "study=s")
    found = client(f"sqlite:///{tmp_path / 'runs' / 's' / 'mlflow.db'}")

    def curve():
        (run,) = found.search_runs(
            [found.get_experiment_by_name("s").experiment_id],
            f"tags.`mlflow.runName` = '{whole.path.name}'",
        )
        points = found.get_metric_history(run.info.run_id, "points/domain")
        return run.info.run_id, [(one.step, one.value) for one in points]

    first, before = curve()
    kept = [one for one in (*FAST, "logger=mlflow") if not one.startswith(("trainer.", "lr="))]
    eval_command.main([f"ckpt={whole.path}", *kept, "suite.limit=3"])
    second, after = curve()
    assert second != first
    assert after == before
    assert [step for step, _ in after] == [6, 12]


def test_an_epoch_ends_with_its_last_step_however_many_epochs_there_are(train):
    """8 rows, 4 a step: 2 steps an epoch, and 2.05 epochs are 5 steps, the begun one counted."""
    short = ("dataset.train_rows=8", "trainer.epochs=2.05")
    runs = train("eval=false", "score_at=epoch", *short)
    assert [training_results(run)["training"]["steps"] for run in runs] == [2, 4, 5]


def test_the_whole_training_is_the_last_point_and_has_the_suite_of_its_own():
    whole = config("train", "model=tiny", "score_at=[1,0.5]", "suite=mini", "score_suite=lite")
    points = [(one.at, one.suite.name) for one in points_along(whole)]
    assert points == [(0.5, "lite"), (1.0, "mini")]


@pytest.mark.parametrize("epochs", [1.1, 2, 2.05, 2.1, 2.5, 3, 7.001, 9.99])
@pytest.mark.parametrize("rows", [5, 24, 30, 120, 1001])
def test_points_at_epochs_are_whole_passes_over_the_rows(epochs, rows):
    in_epoch = -(-rows // 4)
    whole = math.ceil(epochs * in_epoch)  # as transformers has it
    args = SimpleNamespace(num_train_epochs=epochs, max_steps=-1)
    for epoch in range(1, math.ceil(epochs)):
        assert step_at(epoch / epochs, args, whole) == epoch * in_epoch
    assert step_at(1.0, args, whole) == whole
    args.max_steps = whole  # then epochs say nothing
    assert step_at(0.5, args, whole) == round(whole / 2)


def test_values_of_points_are_said_to_be_unused_where_there_is_none(train, caplog):
    typed = ("eval=false", "trainer.max_steps=1")
    train(*typed, "score_during=true", "score_suite=mini")
    assert "score_during is not used: score_at names no point" in caplog.text
    assert "score_suite is not used: score_at names no point" in caplog.text
    caplog.clear()
    train(*typed, "score_during=true", "score_at=[0.5]", "merge=averaging")
    assert "the merges of points are scored at the end" in caplog.text
    assert "names no point" not in caplog.text


def test_points_of_a_finished_run_are_trained_to_the_last_of_them_only(train):
    (whole,) = train("eval=false")
    before = weights_written_at(whole)
    early, late, again = train("eval=false", "score_at=[0.25,0.5]")
    assert (again.path, weights_written_at(again)) == (whole.path, before)
    assert training_results(late)["training"]["steps"] == 6
    assert not late.checkpoints.exists()
    kept = weights_written_at(early), weights_written_at(late)
    early, late, _ = train("eval=false", "score_at=[0.25,0.5]")
    assert (weights_written_at(early), weights_written_at(late)) == kept


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_points_that_are_left(train, tmp_path, monkeypatch):
    typed = ("method=talr", "eval=false", "score_at=[0.25,0.75]")
    keep = make._keep_point

    def killed_at_the_second(point, *rest):
        if point.config.at == 0.75:
            raise ZeroDivisionError
        return keep(point, *rest)

    monkeypatch.setattr(make, "_keep_point", killed_at_the_second)
    with pytest.raises(ZeroDivisionError):
        train(*typed, "study=killed")
    (first,) = map(RunDirectory, (tmp_path / "runs/killed").glob("*/*-at0.25-*"))
    kept = weights_written_at(first)
    monkeypatch.setattr(make, "_keep_point", keep)
    early, late, whole = train(*typed, "study=killed")
    assert (early.path, weights_written_at(early)) == (first.path, kept)
    assert training_results(late)["training"]["resumed_from_step"] == 6
    for run in train(*typed, "study=undisturbed"):
        (own,) = [one for one in (early, late, whole) if one.path.name == run.path.name]
        assert same(weights(own.path), weights(run.path))


def test_each_point_is_scored_compared_and_averaged(train, tmp_path):
    runs = train("method=averaging", "score_at=epoch", "merge.alpha=[0.5,1]", "study=s")
    assert len(runs) == 4  # two epochs, two alphas
    train("score_at=epoch", "study=s")  # of which all weights are there
    found = load_results(tmp_path / "runs", "s")
    assert sorted(map(run_label, found)) == [
        "averaging α=0.5",
        "averaging α=0.5 @0.5",
        "averaging1 α=1",
        "averaging1 α=1 @0.5",
        "sft",
        "sft @0.5",
    ]
    # The same weights, so the same answers.
    by_label = {run_label(one): one["domain"]["items"] for one in found}
    assert by_label["averaging1 α=1 @0.5"] == by_label["sft @0.5"]
    along = [[run_label(one) for one in path] for path in trajectories(found)]
    assert sorted(along) == [
        ["averaging α=0.5 @0.5", "averaging α=0.5"],
        ["averaging1 α=1 @0.5", "averaging1 α=1"],
        ["sft @0.5", "sft"],
    ]
    assert not (tmp_path / "runs/s/report").exists()  # logger=none: nobody takes the picture


@pytest.mark.slow
def test_points_are_scored_while_the_training_waits_and_by_a_suite_of_their_own(train, tmp_path):
    (alone,) = train("eval=false", "study=alone")
    early, whole = train("score_at=[0.5]", "score_during=true", "score_suite=mini", "study=during")
    assert early.path.name.startswith("sft-lr1e-3-s0-at0.5-")
    # It was scored before the training ended, and the training did not feel it.
    assert early.results.stat().st_mtime_ns < weights_written_at(whole)
    assert "evaluation: suite mini" in (early.path / "eval.log").read_text()
    assert same(weights(alone.path), weights(whole.path))
    # What was asked differs, so the two are never set side by side.
    assert len(early.read_results()["general"]["tasks"]) == 4
    assert len(whole.read_results()["general"]["tasks"]) == 1
    (group,) = comparable(load_results(tmp_path / "runs", "during"))
    assert (len(group.runs), len(group.left_out)) == (1, 1)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["score_suite=minni"], "suite=minni"),
        (["score_at=[0.5,2]"], r"score_at=\[0.5, 2\] must be"),
        (["score_at=last"], "score_at=last must be"),
        (["score_at=[0.5]", "at=0.5"], "leave out at=0.5"),
        (["score_at=epoch", "trainer.max_steps=3"], "leave trainer.max_steps out"),
        (["at=0"], "at=0 is outside"),
    ],
)
def test_invalid_points_are_refused(typed, message, train):
    with pytest.raises(UserError, match=message):
        train(*typed)
