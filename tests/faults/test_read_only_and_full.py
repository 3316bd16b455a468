"""Whole commands on disks that cannot be written: those that read work, the others heal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.slow
def test_commands_on_disks_that_cannot_be_written(tmp_path, record_property):
    try:
        subprocess.run([*INSIDE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        [*INSIDE, sys.executable, Path(__file__).with_name("read_only_and_full.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("tried", len(found))
    assert len(found) > 20
    for one in found:
        assert not one["trace"], one
        assert not one["left"], one
        assert one["code"] == (2 if one["name"].startswith("refused") else 0), one
        if one["code"]:
            assert one["last"].startswith("talr: cannot write "), one
