"""What keep=best deletes: models that a run of the same base model, asked the same, has beaten."""

import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from synthetic_study import results

from talr_cli.errors import UserError
from talr_cli.runs.leftovers import remove
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.prune import prune


@pytest.fixture
def study(tmp_path):
    """A strong run, and weaker ones that differ in what they can be compared with."""
    where = SimpleNamespace(
        runs_dir=str(tmp_path),
        study="s",
        model=SimpleNamespace(name="small"),
        dataset=SimpleNamespace(name="medcalc"),
    )
    weak = {"domain": (0.3, 0.03), "general": (0.3, 0.03)}
    runs = {
        "strong": results("sft", domain=(0.9, 0.03), general=(0.9, 0.03), id="strong"),
        "beaten": results("sft", **weak, id="beaten"),
        "of another base": results("sft", **weak, id="base", base="another"),
        "of other items": results("sft", **weak, id="items"),
        "damaged": results("sft", **weak, id="damaged"),
    }
    runs["of other items"]["domain"]["items_hash"] = "others"
    jobs = {}
    for name, one in runs.items():
        directory = RunDirectory(tmp_path / "s" / "small__medcalc" / name.replace(" ", "-"))
        directory.model.mkdir(parents=True)
        directory.write_results(one)
        jobs[name] = Job("train", (), where, directory)
    jobs["damaged"].directory.results.write_text("{")
    return jobs


def kept_after(jobs, keep):
    done = {job.directory.path for job in jobs.values()}
    prune(list(jobs.values()), done, done, keep)
    return {name for name, job in jobs.items() if job.directory.model.exists()}


def test_ends_keeps_no_point_of_a_training(study, tmp_path):
    (job,) = [one for name, one in study.items() if name == "strong"]
    early = RunDirectory(tmp_path / "s" / "small__medcalc" / "early")
    early.model.mkdir(parents=True)
    whole, part = (SimpleNamespace(**vars(job.config), at=at) for at in (1.0, 0.5))
    both = Job("train", (), whole, job.directory, ((part, early),))
    assert kept_after({"strong": both}, "ends") == {"strong"}
    assert not early.model.exists()


def test_best_deletes_only_models_that_a_comparable_run_beats(study, tmp_path):
    # Of the same weights under another name, which has a recommendation of its own.
    other = RunDirectory(tmp_path / "s" / "renamed__medcalc" / "best")
    other.path.mkdir(parents=True)
    best = {"domain": (0.95, 0.03), "general": (0.95, 0.03)}
    other.write_results(results("sft", **best, id="best", model="renamed"))
    assert kept_after(study, "final") == {*study}
    assert kept_after(study, "best") == {*study} - {"beaten"}
    assert kept_after(study, "none") == set()


def test_a_study_is_read_once_for_all_of_its_models(study, monkeypatch):
    read = []

    def noted(*pair):
        read.append(pair)
        return load_results(*pair)

    monkeypatch.setattr("talr_cli.sweep.prune.load_results", noted)
    assert kept_after(study, "best") == {*study} - {"beaten"}
    assert len(read) == 1
    for job in study.values():
        shutil.rmtree(job.directory.model, ignore_errors=True)
    assert kept_after(study, "best") == set()
    assert len(read) == 1  # no model is left to be decided on


def test_a_model_stays_until_its_average_has_ended(study, tmp_path):
    tuned = study["beaten"]
    average = RunDirectory(tmp_path / "s" / "small__medcalc" / "average")
    jobs = [tuned, Job("train", (), tuned.config, average, depends_on=tuned.directory)]
    done = {tuned.directory.path}
    tuned.directory.adapter.mkdir()
    prune(jobs, done, done, "none")
    assert tuned.directory.model.exists()
    prune(jobs, {*done, average.path}, set(), "none")  # it has failed, and so has the average
    assert tuned.directory.model.exists()
    prune(jobs, {*done, average.path}, done, "none")
    assert not tuned.directory.model.exists()
    assert not tuned.directory.adapter.exists()


def test_two_sweeps_of_a_study_may_delete_the_same_model(study, monkeypatch):
    lock = RunDirectory.lock

    @contextmanager
    def after_another_sweep(self):
        shutil.rmtree(self.model)
        with lock(self):
            yield

    monkeypatch.setattr(RunDirectory, "lock", after_another_sweep)
    assert kept_after(study, "none") == set()


def test_a_model_that_cannot_be_deleted_does_not_end_the_sweep(study, monkeypatch, caplog):
    kept = study["beaten"].directory.model

    def read_only(path):
        if path == kept:
            raise UserError(f"cannot write {path}: permission denied")
        remove(path)

    monkeypatch.setattr("talr_cli.sweep.prune.remove", read_only)
    assert kept_after(study, "none") == {"beaten"}
    assert f"keep=none: cannot write {kept}: permission denied" in caplog.text
