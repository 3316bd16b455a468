"""Whatever is wrong with a command line: exit code 2, one line that names it, nothing on disk."""

import pytest
from bad_inputs import FIRST, ROWS, fault, make_checkpoints, make_inputs
from in_process import talr_here


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


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row not in FIRST], ids=lambda row: row.name)
def test_every_other_bad_input_is_refused_in_one_line(row, inputs):
    assert fault(row, talr_here, inputs) is None
