"""scripts/skypilot.yaml: a task as SkyPilot reads it, and a command as talr does."""

import shlex
from pathlib import Path

import pytest
import yaml

from talr_cli.config import composition
from talr_cli.config.commands import SweepConfig
from talr_cli.sweep.grid import expand_grid

TASK = yaml.safe_load((Path(__file__).parents[2] / "scripts/skypilot.yaml").read_text("utf-8"))


def test_the_command_is_a_sweep_into_the_bucket():
    program, command, *typed = shlex.split(
        TASK["run"].strip().replace("$ARGUMENTS", TASK["envs"]["ARGUMENTS"])
    )
    assert (program.rpartition("/")[2], command) == ("talr", "sweep")
    given = composition.split_grid_arguments("sweep", SweepConfig, typed)
    grid = expand_grid(given.of_runs, None)
    assert len(grid) == 6
    assert {one.config.runs_dir for one in grid} == set(TASK["file_mounts"])


def test_the_file_is_a_valid_task_of_skypilot():
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    task = sky.Task.from_yaml_config(TASK)  # its schema, without asking a cloud
    assert {next(iter(one.accelerators)) for one in task.resources} == {
        *("H100", "A100-80GB", "L40S")
    }
    assert all(one.use_spot for one in task.resources)
