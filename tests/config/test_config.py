"""The shipped config: every field is read, every file composes, identity is what it says."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import config
from hydra import compose
from omegaconf import OmegaConf

import talr_cli
from talr_cli import streams
from talr_cli.cli import HELP
from talr_cli.config import composition
from talr_cli.config.commands import COMMANDS, conf_dir
from talr_cli.config.help import describe, help_text
from talr_cli.config.page import page
from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.run.identity import identity, setting_identity
from talr_cli.sweep.grid import expand_grid

SOURCES = [
    path.read_text(encoding="utf-8") for path in Path(talr_cli.__file__).parent.rglob("*.py")
]


def test_every_value_is_described_and_read_somewhere():
    """A silent option is the commonest fault of such tools."""
    every = set()
    for command, kind in COMMANDS.items():
        for one in describe(kind, composed(command)):
            assert one.about.doc, f"{one.key} of {command} says nothing"
            every.add(one.key.rpartition(".")[2])
    # In its declaration a name stands without a dot before it.
    unread = {
        name for name in every if not any(re.search(rf"\.{name}\b|\"{name}\"", s) for s in SOURCES)
    }
    assert not unread


def composed(name):
    """A config before it is typed: a command's, or what a choice has below its group."""
    with composition.composing("train", None):
        return OmegaConf.to_container(compose(name))


@pytest.mark.parametrize(
    "group", ["dataset", "objective", "adapter", "regulariser", "merge", "replay"]
)
def test_a_shipped_part_has_all_values_of_its_class_in_its_file(group):
    """What is not there could not be set on the command line."""
    for choice in choices(group):
        values = composed(f"{group}/{choice}")[group]
        if values:
            module, _, name = values.pop("_target_").rpartition(".")
            kind = getattr(importlib.import_module(module), name)
            assert list(values) == [field.name for field in fields(kind)], choice


def choices(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in (
            *("model", "dataset", "method", "objective", "adapter", "regulariser", "merge"),
            *("replay", "suite", "trainer", "distributed", "logger"),
        )
        for choice in choices(group)
    ],
)
def test_every_shipped_file_composes_and_says_what_to_type(group, choice):
    extra = ["dataset.train=rows.jsonl"] if choice == "jsonl" else []
    config("train", f"{group}={choice}", *extra)
    text = (conf_dir() / group / f"{choice}.yaml").read_text()
    assert re.search(rf"^# talr train .*{group}[=.]", text, re.MULTILINE)


EXPERIMENTS = sorted(
    path.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
    for path in (conf_dir() / "experiment").rglob("*.yaml")
)


@pytest.mark.parametrize("typed", ["adapter=null", "suite=5", "replay=false", "method=[sft,talr]"])
def test_a_group_takes_the_name_of_one_choice(typed):
    """Hydra fails on what is no name, and makes one config of several."""
    group = typed.partition("=")[0]
    told = rf"(?i)^{re.escape(typed)}: {group} takes one of its choices: \w+.*, \w"
    with pytest.raises(UserError, match=told):
        composition.load("train", ["model=tiny", typed])
    with pytest.raises(UserError, match=told):
        expand_grid(["model=tiny", "adapter=null,none" if group == "adapter" else typed], None)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    config("train", f"experiment={experiment}")


def test_label_runs_of_the_paper_are_told_apart_from_those_with_explanations():
    one, labels = (
        plain(config("train", f"experiment=paper/{name}")) for name in ("esci", "esci-label")
    )
    differing = {key for key in one["dataset"] if one["dataset"][key] != labels["dataset"][key]}
    assert differing == {"name", "target"}
    assert {key for key in one if one[key] != labels[key]} == {"dataset"}


def test_an_experiment_sets_the_learning_rate_and_the_command_line_has_the_last_word():
    assert config("train").lr == 1e-5
    assert config("train", "experiment=demo").lr == 2e-4
    assert config("train", "experiment=demo", "lr=1e-6").lr == 1e-6


@pytest.fixture(scope="module")
def usual():
    return config()


def test_all_problems_are_reported_at_once():
    with pytest.raises(UserError) as error:
        config("train", "lr=0", "trainer.epochs=-1", "trainer.precision=fp61")
    for part in ("lr=0", "trainer.epochs=-1", "trainer.precision=fp61"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "runs_dir=elsewhere", "study=other", "eval=false", "logger=none", "device=cpu",
        "distributed=fsdp2", "distributed.processes=8",
        "suite=paper", "trainer.micro_batch_size=2", "model.name=other", "suite.batch_size=1",
    ],
)  # fmt: skip
def test_what_cannot_change_the_weights_does_not_change_the_identity(override, usual):
    assert identity(config("train", override), "x") == identity(usual, "x")


@pytest.mark.parametrize(
    "override",
    [
        "lr=2e-5", "seed=1", "method=talr", "trainer.batch_size=16", "trainer.save_dtype=float32",
        "dataset.train_rows=80", "+model.template_arguments.enable_thinking=false",
    ],
)  # fmt: skip
def test_what_changes_the_weights_changes_the_identity(override, usual):
    assert identity(config("train", override), "x") != identity(usual, "x")


def test_seed_rate_and_points_do_not_count_for_the_setting(usual):
    own = setting_identity(usual, "x")
    for override in ("lr=2e-5", "seed=1", "at=0.5", "score_at=[0.5]", "dataset.data_seed=1"):
        assert setting_identity(config("train", override), "x") == own, override
    for override in ("trainer.epochs=9", "method=talr", "dataset.train_rows=80"):
        assert setting_identity(config("train", override), "x") != own, override
    assert setting_identity(usual, "y") != own


def test_data_files_count_by_content(tmp_path):
    for name, text in (("a", "1\n"), ("b", "1\n"), ("c", "2\n")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    same, moved, changed = (
        identity(config("train", "dataset=jsonl", f"dataset.train={tmp_path}/{name}.jsonl"), "x")
        for name in "abc"
    )
    assert same == moved != changed


def test_the_model_counts_by_its_fingerprint(usual):
    assert identity(usual, "x") != identity(usual, "y")


def test_two_methods_differ_in_nothing_but_the_objective():
    one, other = (plain(config("train", f"method={name}")) for name in ("sft", "talr"))
    assert {key for key in one if one[key] != other[key]} == {"method", "objective"}


def test_the_page_of_all_values_is_current():
    written = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == page(), "python -m talr_cli.config.page > docs/config.md"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_fits_a_terminal(command, monkeypatch):
    monkeypatch.setattr(streams, "terminal_width", lambda: 80)
    lines = help_text(command, COMMANDS[command], composed(command), None).splitlines()
    assert [line for line in [*lines, *HELP.splitlines()] if len(line) > 80] == []
