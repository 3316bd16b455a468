"""A run's stored config is data: nothing that it names is run unless the user types it again."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from conftest import config
from hydra import compose
from omegaconf import OmegaConf

from talr_cli.config import composition
from talr_cli.config.composition import Composed
from talr_cli.config.stored import run_config
from talr_cli.config.typed import typed_config
from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.runs.run_directory import RunDirectory


@pytest.fixture
def run(own_folder, tmp_path):
    """Writes the config of a run, changed, into its directory."""
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "Path('EXECUTED').touch()\n"
        "def judge(output, reference): return True\n"
        "class Judge:\n"
        "    def __call__(self, output, reference): return True\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    def write(*overrides, **sections):
        stored = plain(config("train", "model=tiny", *overrides))
        for name, section in sections.items():
            stored[name] = section(stored[name]) if callable(section) else section
        (tmp_path / "config.yaml").write_text(f"# run identity: {'0' * 64}\n{yaml.dump(stored)}")
        return RunDirectory(tmp_path)

    return write


def composed(*overrides):
    """As `talr eval ckpt=RUN` hands it on; what is for the run is not for Hydra."""
    held = tuple(one for one in overrides if one.startswith(("dataset.", "model.")))
    overrides = tuple(one for one in overrides if one not in held)
    with composition.composing("eval", None):
        values = compose("eval", list(overrides))
        typed = typed_config("eval", values, overrides)
        typed_ones = (*overrides, *held)
        return Composed(typed, typed_ones, typed_ones, OmegaConf.to_container(values))


def test_a_run_is_scored_with_the_template_that_was_saved_with_it(run, tmp_path):
    """The file that it was given may say something else by now, or have gone."""
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages }}")
    stored = run(f"model.chat_template={template}")
    stored.model.mkdir()
    (stored.model / "chat_template.jinja").write_text("{# a day #}{{ messages }}")
    for typed in ((), (f"model.chat_template={template}",), ("model=tiny",)):
        assert run_config("eval", composed(*typed), stored).is_own
    template.write_text("{{ messages }}, changed")
    found = run_config("eval", composed(), stored)
    assert found.is_own
    assert found.config.model.chat_template is None
    assert not run_config("eval", composed(f"model.chat_template={template}"), stored).is_own
    template.unlink()
    assert run_config("eval", composed(), stored).is_own


TARGETS = [
    "builtins.exec",
    "os.system",
    "pandas.read_pickle",
    "talr_cli.evaluation.sandbox.outside.run_program",
    "talr_cli.data.rows.read_rows",
    "talr_cli.data.base.Example",
    "talr_cli.data.../../../tmp.X",
    "mine.judge",
    "hydra.utils.instantiate",
    "",
    7,
    None,
    ["os.system"],
]
JSONL = ("dataset=jsonl", "dataset.train=rows.jsonl")


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_dataset_of_any_other_class_is_refused(run, target):
    with pytest.raises(UserError):
        run_config("eval", composed(), run(dataset=lambda one: {**one, "_target_": target}))
    assert not Path("EXECUTED").exists()


@pytest.mark.parametrize(
    "scorer",
    [
        "builtins.exec",
        "mine.judge",
        {"_target_": "mine.Judge"},
        {"_target_": "subprocess.Popen", "args": ["touch", "EXECUTED"]},
        {"_target_": "talr_cli.scorers.text.Numeric"},
    ],
    ids=str,
)
def test_a_scorer_of_the_users_own_has_to_be_typed_again(run, scorer):
    stored = run(*JSONL, dataset=lambda one: {**one, "scorer": scorer})
    typed = r"\.scorer again" if isinstance(scorer, dict) else rf"\.scorer={re.escape(scorer)}$"
    with pytest.raises(UserError, match=rf"type dataset{typed}"):
        run_config("eval", composed(), stored)
    assert not Path("EXECUTED").exists()
    found = run_config("eval", composed("dataset.scorer=mine.judge"), stored)
    assert found.config.dataset.load().scorer("x", {}).correct


@pytest.mark.parametrize("field", ["train", "test", "hub_id", "on_bad_row"])
@pytest.mark.parametrize("target", ["mine.Judge", "pandas.read_pickle", "pathlib.Path.touch"])
def test_no_other_value_of_a_dataset_makes_an_object(run, field, target):
    stored = run(*JSONL, dataset=lambda one: {**one, field: {"_target_": target, "_args_": ["x"]}})
    with pytest.raises(UserError, match=rf"dataset\.{field}: .* names {re.escape(target)}"):
        run_config("eval", composed(), stored)
    assert not Path("EXECUTED").exists()


def test_of_a_scorer_that_is_typed_again_nothing_is_stored(run):
    stored = {"_target_": "mine.Judge", "path": {"_target_": "mine.Judge"}}
    found = run_config(
        "eval",
        composed("dataset.scorer={_target_: mine.Judge}"),
        run(*JSONL, dataset=lambda one: {**one, "scorer": stored}),
    )
    assert found.config.dataset.scorer.as_config() == {"_target_": "mine.Judge"}


def test_a_kernel_of_the_hub_has_to_be_typed_again(run):
    stored = run(model=lambda one: {**one, "attention": "somebody/kernel"})
    with pytest.raises(UserError, match=r"code of the hub, model\.attention=somebody/kernel"):
        run_config("eval", composed(), stored)
    found = run_config("eval", composed("model.attention=somebody/kernel"), stored)
    assert found.config.model.attention == "somebody/kernel"


def test_code_that_comes_with_a_model_has_to_be_typed_again(run):
    stored = run(model=lambda one: {**one, "trust_remote_code": True})
    with pytest.raises(UserError, match=r"type model\.trust_remote_code=true"):
        run_config("eval", composed(), stored)
    found = run_config("eval", composed("model.trust_remote_code=true"), stored)
    assert found.config.model.trust_remote_code


@pytest.mark.parametrize(
    "sections",
    [
        {"model": None},
        {"model": "tiny"},
        {"model": lambda one: {**one, "unknown": 1}},
        {"model": lambda one: {**one, "path": ["a"]}},
        {"dataset": None},
        {"dataset": lambda one: {**one, "train_rows": "many"}},
        {"dataset": lambda one: {**one, "unknown": 1}},
        {"dataset": lambda one: {**one, "target": {"_target_": "os.system", "command": "ls"}}},
        {"dataset": lambda one: {**one, "name": "${"}},
        {"dataset": lambda one: {**one, "name": date(2025, 1, 1)}},
        {"model": lambda one: {**one, "name": "${oc.env:"}},
    ],
    ids=range(11),
)
def test_a_damaged_config_is_one_line(run, sections):
    with pytest.raises(UserError):
        run_config("eval", composed(), run(**sections))


def test_yaml_that_makes_python_objects_is_refused(run, tmp_path):
    stored = run()
    text = stored.config.read_text()
    stored.config.write_text(f"{text}x: !!python/object/apply:os.system ['touch EXECUTED']\n")
    with pytest.raises(UserError):
        run_config("eval", composed(), stored)
    assert not Path("EXECUTED").exists()


def test_typed_values_override_stored_ones(run):
    stored = run("dataset.test_rows=5")
    found = run_config("eval", composed(), stored)
    assert found.is_own
    assert found.config.dataset.test_rows == 5
    assert found.config.model.name == "tiny"
    assert found.stored["lr"] == 1e-5
    assert run_config("eval", composed("model.attention=eager"), stored).is_own
    other = run_config("eval", composed("model.template_arguments={think: false}"), stored)
    assert not other.is_own
    assert other.config.model.template_arguments == {"think": False}
    other = run_config("eval", composed("dataset.test_rows=6"), stored)
    assert not other.is_own
    assert other.config.dataset.test_rows == 6
    other = run_config("eval", composed("dataset=esci-mini"), stored)
    assert other.config.dataset.name == "esci-mini"
