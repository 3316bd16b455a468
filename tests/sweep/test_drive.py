"""What becomes of jobs whose launcher could not start them."""

from talr_cli.config import composition
from talr_cli.interruption import Stop
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep.drive import drive
from talr_cli.sweep.jobs import Ended, Job


class Refused:
    """A cluster that takes no job: nothing is started, and no folder is made."""

    def submit(self, jobs, stop):
        for job in list(jobs):
            yield Ended(job, 1, 0.0)


def test_a_job_that_a_cluster_refused_has_failed(tmp_path):
    config = composition.load("train", [f"runs_dir={tmp_path}", "model=tiny"])
    run = RunDirectory(tmp_path / "default" / "tiny__medcalc-mini" / "sft-lr1")
    outcomes = drive([Job("train", (), config, run)], Refused(), False, "final", Stop())
    assert [one.word for one in outcomes.values()] == ["failed"]
    assert run.read_status().state == "failed"
