"""The grid of a sweep is what Hydra's own multirun would run, config for config."""

import itertools
import shlex

import pytest
from hydra import compose
from omegaconf import OmegaConf

from talr_cli.config import composition
from talr_cli.config.typed import typed_config
from talr_cli.errors import UserError
from talr_cli.sweep.grid import base_command, base_overrides, expand_grid


def container(config):
    return OmegaConf.to_container(config, resolve=True)


def test_lists_ranges_choices_and_globs_give_their_product():
    methods = ("sft", "asft", "infosft", "self-sft", "tailsft")
    found = expand_grid(["method=glob(*sft)", "seed=range(0,3)", "lr=choice(1e-6,2e-5)"], None)
    seen = {(one.config.lr, one.config.seed, one.choices["method"]) for one in found}
    assert seen == set(itertools.product((1e-6, 2e-5), (0, 1, 2), methods))
    assert len(found) == len(seen)


def test_each_config_is_the_one_that_its_overrides_compose_to():
    lists = [
        "method=sft,averaging,lora,talr",
        "lr=1e-6,1e-3",
        "experiment=demo",
        "suite.tasks=[mini_python]",
        "+model.template_arguments.a=1",
        "++dataset.data_seed=3",
        "merge=none,averaging",
    ]
    for point in expand_grid(lists, None):
        with composition.composing("train", None):
            alone = compose("train", list(point.overrides))
            assert container(point.composed) == container(alone)
            assert point.config == typed_config("train", alone, point.overrides)


@pytest.fixture
def experiment_folder(tmp_path):
    """A folder with an experiment that brings a grid."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "grid.yaml").write_text(
        "# @package _global_\n"
        "lr: 3e-4\n"
        "trainer: {epochs: 7}\n"
        "hydra: {sweeper: {params: {lr: '1e-6,5e-6', method: 'sft,talr', seed: 'range(0,2)'}}}\n"
    )
    return tmp_path / "mine"


def test_an_experiment_brings_its_grid_and_typed_values_go_before_it(experiment_folder):
    found = expand_grid(["experiment=grid"], experiment_folder)
    assert len(found) == 8
    assert {one.config.trainer.epochs for one in found} == {7}
    assert {one.config.lr for one in found} == {1e-6, 5e-6}
    found = expand_grid(["experiment=grid", "lr=1e-2", "seed=4,5,6"], experiment_folder)
    assert {(one.config.lr, one.config.seed) for one in found} == {(1e-2, s) for s in (4, 5, 6)}
    assert len(found) == 6


def test_several_experiments_at_once_are_refused(experiment_folder):
    with pytest.raises(UserError, match="experiment takes one value"):
        expand_grid(["experiment=grid,demo"], experiment_folder)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["lrr=1,2"], "did you mean lr"),
        (["method=sft,tlar"], "did you mean talr"),
        (["lr=1e-6,fast"], "lr"),
    ],
)
def test_a_mistake_is_a_user_error(typed, expected):
    with pytest.raises(UserError, match=expected):
        expand_grid(typed, None)


@pytest.mark.parametrize(
    "typed",
    [
        ["model=qwen3-4b", "suite=paper", "domain.limit=5"],
        ["experiment=demo", "logger.project='my, project'", "study=x"],
        ["+model.key_mapping.a=b", "model.path='a b'", "suite.tasks=[mini_python]"],
        ["dataset=jsonl", r"dataset.train='it\'s.jsonl'", "dataset.scorer=numeric"],
    ],
    ids=str,
)
def test_the_base_is_scored_with_the_settings_of_the_run(typed):
    (point,) = expand_grid([*typed, "lr=1e-3", "method=talr"], None)
    lines, config = base_overrides(point, None)
    with composition.composing("eval", None):
        composed = typed_config("eval", compose("eval", list(lines)), lines)
    assert composed == config
    for key in ("model", "dataset", "suite", "domain", "logger", "study"):
        assert getattr(composed, key) == getattr(point.config, key)


@pytest.mark.parametrize(
    "typed",
    [
        ("model=tiny", "method=talr", "lr=1e-3", "dataset.test_rows=6", "limit=3", "logger=none"),
        ("experiment=demo", "lr=1e-3", "seed=4", "study=mine"),
        ("suite.tasks=[mini_python]", "+model.template_arguments.a=1", "merge=averaging"),
    ],
)
def test_what_is_typed_to_score_the_base_scores_it_as_the_run_is(typed):
    talr, command, *overrides = shlex.split(base_command(typed, None))
    assert (talr, command) == ("talr", "eval")
    (point,) = expand_grid(typed, None)
    assert composition.load("eval", overrides) == base_overrides(point, None)[1]
