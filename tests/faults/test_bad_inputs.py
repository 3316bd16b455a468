"""Whatever is wrong with a command line: exit code 2, one line that names it, nothing on disk."""

from contextlib import nullcontext

import pytest
from bad_inputs import (
    FIRST,
    ROWS,
    SWEEP,
    UNKNOWN_TASK,
    Row,
    fault,
    make_checkpoints,
    make_inputs,
)
from in_process import talr_here

from talr_cli.sweep import machine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_source):
    folder = tmp_path_factory.mktemp("rows") / "work"
    folder.mkdir()
    make_inputs(folder)
    make_checkpoints(tiny_source.directory, folder.parent / "ckpt")
    return folder


@pytest.mark.parametrize("row", FIRST, ids=lambda row: row.kind)
def test_the_first_bad_input_of_each_kind_is_refused_in_one_line(row, inputs):
    assert fault(row, talr_here, inputs) is None


def test_a_plan_names_a_task_that_no_run_could_load(inputs, monkeypatch):
    """Each run said it by itself, one after the other."""
    # The list of the harness's tasks takes seconds, and this process has it already.
    here = nullcontext(lambda function, argument: function(argument))
    monkeypatch.setattr(machine, "worker_process", lambda: here)
    row = Row("suites", (*SWEEP, *UNKNOWN_TASK), ("lm-eval knows no no_such_task",))
    assert fault(row, talr_here, inputs) is None


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row not in FIRST], ids=lambda row: row.name)
def test_every_other_bad_input_is_refused_in_one_line(row, inputs):
    assert fault(row, talr_here, inputs) is None
