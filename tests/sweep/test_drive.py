"""What becomes of jobs whose launcher could not start them, or that another process makes."""

import pytest

from talr_cli.config import composition
from talr_cli.errors import IN_USE
from talr_cli.interruption import Stop
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep.drive import run_jobs
from talr_cli.sweep.jobs import EndedJob, Job
from talr_cli.sweep.reporter import Reporter


class Refused:
    """A cluster that takes no job: nothing is started, and no folder is made."""

    def submit(self, jobs, stop):
        for job in list(jobs):
            yield EndedJob(job, 1, 0.0)


class Elsewhere:
    """Another process owns the run when the job starts, and has finished it when it ends."""

    def submit(self, jobs, stop):
        for job in jobs:
            job.directory.write_status("failed", "by the other process")
            yield EndedJob(job, IN_USE, 0.0)


@pytest.fixture
def job(tmp_path):
    config = composition.load("train", [f"runs_dir={tmp_path}", "model=tiny"])
    run = RunDirectory(tmp_path / "default" / "tiny__medcalc-mini" / "sft-lr1")
    run.path.parent.mkdir(parents=True)
    return Job("train", (), config, run)


def test_a_job_that_a_cluster_refused_has_failed(job):
    outcomes = run_jobs([job], Refused(), False, "final", Stop())
    assert [one.result for one in outcomes.values()] == ["failed"]
    assert job.directory.read_status().state == "failed"


def test_a_job_that_another_process_makes_does_not_run_here(job, monkeypatch):
    job.directory.path.mkdir()
    monkeypatch.setattr("talr_cli.sweep.drive.POLL", 0)
    lines, leaves = [], Reporter.job_left

    def listen(self, left):
        leaves(self, left)
        lines.append(self.line())

    monkeypatch.setattr(Reporter, "job_left", listen)
    outcomes = run_jobs([job], Elsewhere(), False, "final", Stop())
    assert lines == ["sweep 0/1 done"]
    (outcome,) = outcomes.values()
    assert (outcome.result, outcome.reason.split(" (")[0]) == ("failed", "by the other process")
