"""Commands that are printed do what is said of them when they are typed as they are printed."""

import shlex
from pathlib import Path

import pytest

from talr_cli.config import composition
from talr_cli.runs.listing import find_run
from talr_cli.runs.next_command import score_command, study_command
from talr_cli.runs.run_directory import RunDirectory

FOLDERS = ["runs", "my runs", "/data/it's here", "a=b,c", "$HOME/x", "äö", "(1)"]


def config_of(line):
    """The config that a line of a shell comes to."""
    program, command, *arguments = shlex.split(line)
    assert program == "talr"
    given = [one if "=" in one else f"run={one}" for one in arguments]
    return composition.compose_config(command, given).config


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", ["report", "recommend", "status", "stop", "list", "train"])
def test_a_command_on_a_study_finds_it_wherever_it_lies(command, folder):
    config = config_of(study_command(command, folder, "s-1"))
    assert (config.runs_dir, config.study) == (folder, "s-1")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_command_on_a_run_finds_it_wherever_it_lies(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder.lstrip("/")
    run = RunDirectory(tmp_path / folder / "s" / "m__d" / "sft-01234567")
    run.prepare({}, [], "01234567" + "0" * 56)
    config = config_of(study_command("logs", folder, "s", "sft"))
    assert find_run(config.run, Path(config.runs_dir), config.study).path.resolve() == run.path
    assert config_of(score_command(run.path)).ckpt == str(run.path)
    assert config_of(study_command("list", folder, None)).runs_dir == folder
