"""What becomes of jobs that end otherwise than by making their run."""

import os
import signal
from dataclasses import replace

import pytest

from talr_cli.config import composition
from talr_cli.errors import IN_USE
from talr_cli.interruption import Stop
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep.drive import run_jobs
from talr_cli.sweep.jobs import EndedJob, Job
from talr_cli.sweep.plan import job_state
from talr_cli.sweep.reporter import Reporter


class Ends:
    """Each process ends with this exit code and these last words, and without its run."""

    queued = False

    def __init__(self, code, words=None):
        self.code, self.words = code, words

    def submit(self, jobs, stop):
        for job in list(jobs):
            if self.words is not None:
                job.directory.path.mkdir()
                job.log.write_text(self.words)
            yield EndedJob(job, self.code, 0.0)


class Elsewhere:
    """Another process owns the run when the job starts, and has finished it when it ends."""

    queued = False

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


@pytest.mark.parametrize(
    ("launcher", "word", "reason", "next_time"),
    [
        # A cluster that takes no job: nothing is started, and no folder is made.
        (Ends(1), "failed", "", "failed"),
        (Ends(1, "it broke"), "failed", "it broke", "failed"),
        # What can be put right is tried again with the same command.
        (Ends(2, "the disk is full"), "interrupted", "the disk is full", "to resume"),
        (Ends(2), "interrupted", "train.log is empty: is the disk full?", "to resume"),
        (Ends(-signal.SIGKILL, "step 3"), "failed", "SIGKILL, as the system does", "to do"),
        (Ends(-signal.SIGSEGV), "failed", "killed by SIGSEGV; goes on", "to do"),
        (Ends(-37), "failed", "killed by signal 37; goes on", "to do"),
        # Its config was edited since the plan, and it has made the run of that.
        (Ends(0, "run directory: another"), "failed", "has made another run", "to do"),
    ],
)
def test_outcome_of_a_job_that_ends_without_its_run(launcher, word, reason, next_time, job):
    (outcome,) = run_jobs([job], launcher, False, "final", Stop()).values()
    assert outcome.result == word
    assert not outcome.is_good
    assert reason in outcome.reason.splitlines()[-1] if reason else not outcome.reason
    assert job_state(job) == next_time


def test_a_job_is_not_started_before_the_run_that_it_depends_on_nor_without_it(job):
    """The launcher has room for both at once. What has failed keeps its weights, to go on with."""
    job.directory.model.mkdir(parents=True)
    average = RunDirectory(job.directory.path.with_name("averaging-lr1"))
    jobs = [job, Job("train", (), job.config, average, depends_on=job.directory)]
    failed, averaged = run_jobs(jobs, Ends(1), False, "none", Stop()).values()
    assert failed.result == "failed"
    assert job.directory.model.exists()
    assert (averaged.result, averaged.reason) == ("not started", "sft-lr1: failed")


def test_a_job_that_leaves_one_of_its_runs_undone_has_failed(job, monkeypatch):
    early = RunDirectory(job.directory.path.with_name("sft-lr1-at0.5"))
    monkeypatch.setattr("talr_cli.sweep.drive.is_done", lambda _, directory: directory is early)
    both = replace(job, points=((job.config, early),))
    (outcome,) = run_jobs([both], Ends(0), False, "final", Stop()).values()
    assert outcome.result == "failed"


def test_a_job_in_a_queue_is_pending_until_its_process_starts(job, caplog, monkeypatch):
    """Also if it has a log of an earlier start; of several, the line is about one that runs."""
    caplog.set_level("INFO")
    monkeypatch.setattr("sys.executable", "true")
    other = replace(job, directory=RunDirectory(job.directory.path.with_name("talr-lr1")))
    job.directory.path.mkdir()
    job.log.write_text("step 3\n")
    os.utime(job.log, (0, 0))
    reporter, local = (Reporter([other, job], 1, queued=queued) for queued in (True, False))
    for one in (other, job):
        reporter.job_started(one, {})
        local.job_started(one, {})
    assert [record.getMessage().split()[1] for record in caplog.records] == ["goes", "starts:"] * 2
    assert ", talr pending 0:0" in reporter.line()
    assert ", talr starting 0:0" in local.line()
    job.start({}).wait()
    assert ", sft starting 0:0" in reporter.line()


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
