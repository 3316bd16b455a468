"""The plan finds models without making them, and lists every piece of work once."""

import io
import os
from dataclasses import replace

import pytest
from conftest import config
from rich.cells import cell_len
from rich.console import Console

from talr_cli.config import composition
from talr_cli.errors import UserError
from talr_cli.models import sources
from talr_cli.report.tables.screen import fitted
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.plan import find_models, job_state, make_jobs, make_plan
from talr_cli.sweep.show import _namesakes, _totals, plan_cells


def test_a_model_is_found_as_it_is_resolved(tiny_config, tiny_source):
    found = sources.resolve_offline(tiny_config)
    assert (found.directory, found.fingerprint) == (tiny_source.directory, tiny_source.fingerprint)
    of_folder = replace(tiny_config, path=str(tiny_source.directory), random_init=None)
    assert sources.resolve_offline(of_folder) == sources.resolve_model(of_folder)


def test_a_model_that_is_not_here_is_unknown_or_a_mistake(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    nowhere = replace(tiny_config, path="nobody/nothing", package=None)
    assert sources.resolve_offline(nowhere) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="not a directory"):
        sources.resolve_offline(replace(tiny_config, path="./nothing"))


def test_a_remembered_digest_is_that_of_the_file_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * sources.LARGE)
    first = sources.directory_source(tmp_path).fingerprint
    assert len(list((tmp_path / "cache/digests").iterdir())) == 1
    assert sources.directory_source(tmp_path).fingerprint == first
    time = weights.stat().st_mtime_ns
    weights.write_bytes(b"b" * sources.LARGE)
    os.utime(weights, ns=(time + 1, time + 1))
    assert sources.directory_source(tmp_path).fingerprint != first


def plan(*overrides):
    grid = expand_grid(["model=tiny", *overrides], None)
    jobs = make_jobs(grid, find_models(grid, fetch=False), None)
    return [
        (job.command, job.directory.path.name.rpartition("-")[0], job.is_dependency) for job in jobs
    ]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_all_averages_share_one_run_which_is_trained_first(tiny_source):
    assert plan("method=averaging", "merge.alpha=0.3,0.5,[0.7,0.9]", "lr=1e-3") == [
        ("eval", "base", False),
        ("train", "sft-lr1e-3-s0", True),
        ("train", "averaging0.3-lr1e-3-s0", False),
        ("train", "averaging-lr1e-3-s0", False),
        ("train", "averaging0.7-lr1e-3-s0", False),
        ("train", "averaging0.9-lr1e-3-s0", False),
    ]


def test_the_base_is_scored_as_points_are_too_where_they_have_a_suite_of_their_own(tiny_source):
    grid = expand_grid(
        [
            *("model=tiny", "lr=1e-3", "suite.name=short", "suite.tasks=[mini_python]", "limit=3"),
            *("score_at=[0.5]", "score_suite=mini"),
        ],
        None,
    )
    usual, by_points, run = make_jobs(grid, find_models(grid, fetch=False), None)
    assert usual.directory.path.name.startswith("base-")
    assert by_points.directory.path.name.startswith("base-mini-")
    assert by_points.overrides[-1] == "apart=true"
    (early, _), (whole, _) = run.runs
    assert early.suite == by_points.config.suite
    assert (whole.suite, whole.suite.limit) == (usual.config.suite, early.suite.limit)
    assert len(early.suite.tasks) == 4
    # What is typed for it composes to the same.
    composed = config("eval", *by_points.overrides)
    assert (composed.suite, composed.apart) == (early.suite, True)


def test_points_along_a_training_are_made_with_it_and_averaged(tiny_source):
    grid = expand_grid(["model=tiny", "method=averaging", "lr=1e-3", "score_at=[0.25]"], None)
    base, tuned, *averaged = make_jobs(grid, find_models(grid, fetch=False), None)
    (early, place), (whole, _) = tuned.runs
    assert (early.at, whole.at, tuned.directory.path.name[:14]) == (0.25, 1.0, "sft-lr1e-3-s0-")
    assert place.path.name.startswith("sft-lr1e-3-s0-at0.25-")
    assert [job.config.at for job in averaged] == [0.25, 1.0]
    assert averaged[0].overrides[-3:] == ("score_at=null", "at=0.25", "merge.alpha=0.5")
    assert {job.depends_on for job in averaged} == {tuned.directory}
    assert not list(base.runs)


def test_a_run_has_the_state_that_its_files_say(tiny_source):
    grid = expand_grid(["model=tiny", "lr=1e-3", "eval=false"], None)
    models = find_models(grid, fetch=False)
    (run,) = make_jobs(grid, models, None)
    found = [job_state(run)]
    run.directory.model.mkdir(parents=True)
    for written in ("training", "failed", "diverged", "trained", "evaluated"):
        run.directory.write_status(written)
        found.append(job_state(run))
    assert found == ["to do", "to resume", "failed", "failed", "done", "done"]
    made = make_plan(grid, models, None, composition.load("sweep", []))
    assert (made.states, made.disk, made.seconds, made.memory) == (["done"], 0, 0, None)
    assert list(_totals(made)) == ["runs: 1 done"]  # it said "time: about 1 min"
    run.directory.model.rmdir()
    assert job_state(run) == "to resume"
    made = make_plan(grid, models, None, composition.load("sweep", []))
    assert made.disk > 0
    assert (made.seconds, made.memory is None) == (None, False)


def test_a_finished_run_of_other_values_is_told_from_the_one_that_is_to_do(tiny_source):
    """Else who edited a row wonders why everything is to be made again."""

    def notes(*overrides):
        grid = expand_grid(["model=tiny", "lr=1e-3,1e-4", "eval=false", *overrides], None)
        jobs = make_jobs(grid, find_models(grid, fetch=False), None)
        return jobs, _namesakes(jobs, [job_state(job) for job in jobs])

    (first, _), told = notes()
    assert told == []
    first.directory.model.mkdir(parents=True)
    first.directory.results.write_text("{}")
    first.directory.write_status("evaluated")
    assert notes()[1] == []
    (line,) = notes("trainer.epochs=5")[1]
    assert line.startswith("1 of the runs to do have the names of finished ones")
    assert f"`talr show {first.directory.path}`" in line


def test_a_run_that_is_asked_for_and_averaged_is_one(tiny_source):
    assert plan("method=averaging,sft", "lr=1e-3", "eval=false") == [
        ("train", "sft-lr1e-3-s0", False),
        ("train", "averaging-lr1e-3-s0", False),
    ]


def test_a_run_that_is_only_averaged_is_not_made_where_its_averages_are_there(tiny_source):
    grid = expand_grid(["model=tiny", "method=averaging", "lr=1e-3", "eval=false"], None)
    models = find_models(grid, fetch=False)
    tuned, averaged = make_jobs(grid, models, None)
    assert averaged.depends_on.path == tuned.directory.path
    averaged.directory.model.mkdir(parents=True)
    averaged.directory.write_status("trained")
    (found,) = make_jobs(grid, models, None)
    assert found.directory.path == averaged.directory.path


def test_a_base_is_scored_once_for_each_model_and_dataset(tiny_source):
    commands = [name for name, *_ in plan("dataset=medcalc-mini,esci-mini", "seed=0,1,2")]
    assert commands == ["eval"] * 2 + ["train"] * 6


def test_the_same_run_written_twice_is_made_once(tiny_source):
    assert [name for _, name, _ in plan("lr=1e-3,0.001", "eval=false")] == ["sft-lr1e-3-s0"]


def test_names_are_whole_on_a_narrow_terminal(tiny_source):
    grid = expand_grid(["model=tiny", "method=averaging,flow", "lr=1e-3"], None)
    models = find_models(grid, fetch=False)
    made = make_plan(grid, models, None, composition.load("sweep", []))
    file = io.StringIO()
    Console(width=80, file=file).print(fitted(plan_cells(made), 80))
    lines = file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    for job in made.jobs:
        assert job.directory.path.name in file.getvalue()
