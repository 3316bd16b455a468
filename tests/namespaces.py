"""A program in a mount namespace of its own, where it may make disks that are full or read-only."""

import os
import subprocess
import sys

import pytest

INSIDE = ["unshare", "--user", "--map-root-user", "--mount"]


def run_inside(*command, cwd, timeout):
    """What it printed; skips the test where there are no user namespaces."""
    try:
        subprocess.run([*INSIDE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        [*INSIDE, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
