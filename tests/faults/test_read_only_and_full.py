"""Whole commands on disks that cannot be written: those that read work, the others heal."""

import json
import sys
from pathlib import Path

import pytest
from namespaces import run_inside


@pytest.mark.slow
def test_commands_on_disks_that_cannot_be_written(tmp_path, record_property):
    program = Path(__file__).with_name("read_only_and_full.py")
    told = run_inside(sys.executable, program, cwd=tmp_path, timeout=900)
    found = json.loads(told.splitlines()[-1])
    record_property("tried", len(found))
    assert len(found) > 20
    for one in found:
        assert not one["trace"], one
        assert not one["left"], one
        assert one["code"] == (2 if one["name"].startswith("refused") else 0), one
        if one["code"]:
            assert one["last"].startswith("talr: cannot write "), one
