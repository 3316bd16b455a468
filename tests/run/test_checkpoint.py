"""Scores of a run that others replace."""

import pytest
from conftest import config
from synthetic_study import scored

from talr_cli.run.checkpoint import _warn_of_other_measure
from talr_cli.run.record import is_scored, scoring_identity, would_replace_fuller
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
def test_what_is_measured_otherwise_is_said_to_be_replaced(typed, said, tmp_path, caplog):
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    results["general"]["suite"], results["domain"]["answer_by"] = "s", "likelihood"
    directory = RunDirectory(tmp_path)
    directory.write_results(results)
    as_before = ["suite.name=s", "domain.answer_by=likelihood"]
    _warn_of_other_measure(config("eval", *as_before, *typed), directory)
    warned = [one.getMessage() for one in caplog.records if "are replaced" in one.getMessage()]
    assert len(warned) == len(said)
    for line, part in zip(warned, said, strict=True):
        assert line.startswith(f"the scores by {part}")


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
    assert not would_replace_fuller(asked, directory)
    directory.write_results(results)
    assert would_replace_fuller(asked, directory) == fuller


def test_scores_are_those_asked_for_where_all_that_they_depend_on_is_the_same(tmp_path):
    directory, asked = RunDirectory(tmp_path), config("eval")
    assert not is_scored(asked, directory)
    results = scored("sft", [1, 0], {"one": [1, 0]}, id="1")
    results["scoring"], results["general"]["missing"] = scoring_identity(asked), {}
    directory.write_results(results)
    for same in ("suite.batch_size=3", "domain.batch_size=3", "runs_dir=elsewhere"):
        assert is_scored(config("eval", same), directory)
    for other in (
        "suite.limit=3",
        "domain.limit=3",
        "domain.max_new_tokens=7",
        "dataset.data_seed=1",
    ):
        assert not is_scored(config("eval", other), directory)
    results["general"]["missing"] = {"ifeval": "its data"}  # which is there by now
    directory.write_results(results)
    assert not is_scored(asked, directory)
