"""Scores of a run that others replace, and those that must not be taken for its own."""

import json
import shutil

import pytest
from command_line import SMALL
from conftest import config
from safetensors.torch import load_file, save_file
from synthetic_study import scored

from talr_cli.commands import eval as eval_command
from talr_cli.commands import train as train_command
from talr_cli.data.base import Example, Splits
from talr_cli.evaluation.config import DomainEvalConfig
from talr_cli.run import record
from talr_cli.run.record import covers_more, is_scored, scoring_identity
from talr_cli.runs import environment
from talr_cli.runs.run_directory import RunDirectory


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], []),
        (["domain.answer_by=generation"], ["domain.answer_by=likelihood"]),
        (["suite.name=other"], ["suite=s"]),
        (["suite.name=other", "domain.answer_by=generation"], ["suite=s", "domain.answer_by=l"]),
    ],
)
def test_replacing_scores_of_another_suite_or_answer_by_is_warned_of(typed, said, tmp_path, caplog):
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    results["general"]["suite"], results["domain"]["answer_by"] = "s", "likelihood"
    directory = RunDirectory(tmp_path)
    directory.write_results(results)
    as_before = ["suite.name=s", "domain.answer_by=likelihood"]
    record.warn_of_replaced(config("eval", *as_before, *typed), directory, directory.read_results())
    warned = [one.getMessage() for one in caplog.records if "are replaced" in one.getMessage()]
    assert len(warned) == len(said)
    for line, part in zip(warned, said, strict=True):
        assert line.startswith(f"the scores by {part}")


@pytest.fixture
def base(tiny_source, tmp_path):
    """The tiny model in a folder, which a user would type."""
    return shutil.copytree(tiny_source.directory, tmp_path / "base")


@pytest.fixture
def other(base):
    """A model of the same shape and tokens, with other weights."""
    other = shutil.copytree(base, base.with_name("other"))
    weights = {name: 3 * one for name, one in load_file(base / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    for listed in other.glob("*manifest*"):
        listed.unlink()
    return other


ASKED = (
    *(one for one in SMALL if one.startswith(("suite.", "domain.", "device="))),
    *("logger=none", "suite.tasks=[mini_arithmetic]", "suite.limit=1", "domain.max_new_tokens=1"),
)


def test_scores_of_a_run_against_another_base_are_not_taken_for_its_own(
    base, other, tmp_path, monkeypatch, caplog
):
    """Drift from a model that the run was not trained from is another number."""
    monkeypatch.chdir(tmp_path)
    typed = (f"model.path={base}", "model.random_init=null", "model.name=b", "trainer.max_steps=1")
    train_command.main(
        [*SMALL, *ASKED, *typed, "lr=1e-3", "study=s", "eval=false", "dataset.test_rows=2"]
    )
    (run,) = map(RunDirectory, (tmp_path / "runs/s").glob("b__*/sft-*"))
    moved = shutil.copytree(base, tmp_path / "elsewhere")

    eval_command.main([*ASKED, f"ckpt={run.path}", f"model.path={other}"])
    assert "was not trained from model.path=" in caplog.text
    assert not run.results.exists()
    eval_command.main([*ASKED, f"ckpt={run.path}", f"model.path={moved}"])  # the same model
    own = run.read_results()
    apart = (f"ckpt={run.path}", f"model.path={base}", "apart=true", "suite.limit=2")
    eval_command.main([*ASKED, *apart])  # of more items, which would replace the run's own
    (folder,) = (tmp_path / "runs/s").glob(f"b__*/{run.path.name}-*")
    assert run.read_results() == own
    assert RunDirectory(folder).read_results()["general"]["limit"] == 2
    assert RunDirectory(folder).read_config()["apart"]
    eval_command.main([*ASKED, f"ckpt={run.path}", f"model.path={other}"])
    assert "found these scores" in caplog.text
    assert run.read_results() == own

    (file,) = (tmp_path / "runs/default").glob("other__*/*/results.json")
    beside = json.loads(file.read_text())
    assert (own["run"]["model"], own["run"]["method"], own["run"]["study"]) == ("b", "sft", "s")
    assert (beside["run"]["model"], beside["run"]["method"]) == ("other", run.path.name)
    assert beside["run"]["base"] != own["run"]["base"]
    assert beside["domain"]["items"] == own["domain"]["items"]
    near, far = (one["drift"]["kl_from_base"]["score"] for one in (own, beside))
    assert far > 2 * near


@pytest.mark.parametrize("part", ["general", "domain"])
@pytest.mark.parametrize(
    ("before", "now", "fuller"),
    [
        (None, 5, True),
        (None, None, False),
        (6, 5, True),
        (5, 5, False),
        (4, 5, False),
        (6, None, False),
    ],
)
def test_scores_of_more_items_are_known_before_they_are_replaced(
    part, before, now, fuller, tmp_path
):
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    other = "domain" if part == "general" else "general"
    results[part]["limit"], results[other] = before, None
    directory, section = RunDirectory(tmp_path), "suite" if part == "general" else "domain"
    asked = config("eval", f"{section}.limit={'null' if now is None else now}")
    assert not covers_more(directory.read_results(), asked)
    directory.write_results(results)
    assert covers_more(directory.read_results(), asked) == fuller


def test_scores_are_those_asked_for_where_all_that_they_depend_on_is_the_same(
    tmp_path, monkeypatch
):
    directory, asked = RunDirectory(tmp_path), config("eval")
    assert not is_scored(asked, directory.read_results())
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    results["scoring"], results["general"]["missing"] = scoring_identity(asked), {}
    directory.write_results(results)
    for same in ("suite.batch_size=3", "domain.batch_size=3", "runs_dir=elsewhere"):
        assert is_scored(config("eval", same), directory.read_results())
    for other in (
        "suite.limit=3",
        "domain.limit=3",
        "domain.max_new_tokens=7",
        "dataset.data_seed=1",
    ):
        assert not is_scored(config("eval", other), directory.read_results())
    with monkeypatch.context() as later:
        later.setattr(environment, "_version", lambda package: "99")
        assert not is_scored(asked, directory.read_results())
    results["general"]["missing"] = {"ifeval": "its data"}  # which is there by now
    directory.write_results(results)
    assert not is_scored(asked, directory.read_results())


def test_a_limit_takes_test_rows_of_every_category():
    asked = ({"role": "user", "content": "?"},)
    rows = [Example(str(n), asked, "x", category="first" if n < 9 else "last") for n in range(12)]
    found = record.domain_rows(DomainEvalConfig(limit=4), Splits([], [], rows, None))
    assert [row.category for row in found] == ["first"] * 3 + ["last"]
