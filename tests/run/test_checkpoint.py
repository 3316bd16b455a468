"""Scores of a run that others replace."""

import pytest
from conftest import config
from synthetic_study import scored

from talr_cli.run.checkpoint import _warn_of_other_measure
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
