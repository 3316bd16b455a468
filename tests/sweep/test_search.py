"""`talr search`: what is tried, by whom, and what a kill costs. Optuna is the real one."""

import functools
import json
import multiprocessing
import os
import re
import resource
import subprocess
import time
from pathlib import Path

import numpy
import pytest
from command_line import SMALL, talr
from synthetic_study import scored

from talr_cli.config.commands import SearchConfig
from talr_cli.errors import UserError
from talr_cli.interruption import Stop
from talr_cli.models.sources import ModelSource
from talr_cli.run.record import scoring_identity
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.jobs import EndedJob, Job
from talr_cli.sweep.plan import model_key
from talr_cli.sweep.space import Categories, Interval, OrderedValues, parse_space

pytest.importorskip("optuna")

from talr_cli.sweep import search as module
from talr_cli.sweep.journal import BOUND, OVERRIDES, RUN, Journal
from talr_cli.sweep.search import Search

SPACE = [Interval("lr", 1e-5, 1e-2, log=True), Categories("method", ("sft", "l2"))]
FIXED = ["model=tiny", "logger=none", "device=cpu"]
BEST = 1e-3  # the rate
BASE = 0.6  # its general score
EASY = (numpy.arange(1000) + 0.5) / 1000


def write_scores(config, directory, base=None):
    """What a run at this rate scores: its domain score is the best at BEST, l2 is worse by 0.1."""
    lr = getattr(config, "lr", None)
    domain, general = 0.1, BASE
    if lr is not None:
        far = abs(numpy.log10(lr / BEST))
        domain = 0.8 - 0.2 * far - 0.1 * (config.method == "l2")
        general = BASE - (0.1 if lr > 3e-3 else 0.0)
    one = scored("base" if lr is None else config.method, domain > EASY, {"a": general > EASY})
    one["scoring"] = scoring_identity(config)
    one["run"] |= {"id": directory.path.name[-8:], "lr": lr, "model": "tiny"}
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.write_results(one)
    directory.write_status("evaluated")


class Scores:
    """A launcher: no model is made, its scores are. `dies_at`: the jobs at which it is killed."""

    queued = False

    def __init__(self, folder, dies_at=()):
        self.made, self.dies_at, self.jobs = folder / "made.txt", set(dies_at), 0

    def submit(self, jobs, stop):
        for job in jobs:
            self.jobs += 1
            if self.jobs in self.dies_at:
                raise SystemExit("killed")
            with self.made.open("a") as file:
                file.write(f"{os.getpid()} {job.directory.path}\n")
            time.sleep(0.02)
            write_scores(job.config, job.directory)
            yield EndedJob(job, 0, 0.02)


@pytest.fixture
def found_here(monkeypatch, tmp_path):
    def find(points, fetch):
        return {model_key(one.config): ModelSource(Path(), "random", "random") for one in points}

    monkeypatch.setattr(module, "find_models", find)
    monkeypatch.chdir(tmp_path)


def searched(launcher, n_trials, study="s", **options):
    own = Search(
        SPACE,
        [*FIXED, f"study={study}"],
        None,
        SearchConfig(n_trials=n_trials, **options),
        lambda device: launcher,
    )
    return own.run(Stop()).study


def runs_made(folder):
    """[(process, run)] of all that was made, the base model aside."""
    lines = (folder / "made.txt").read_text().splitlines()
    return [tuple(line.split(" ")) for line in lines if "/base-" not in line]


def test_a_killed_search_asks_for_no_trial_twice_and_tries_what_an_unkilled_one_tries(
    found_here, tmp_path
):
    whole = searched(Scores(tmp_path), 4, study="whole")
    for one in whole.trials:  # it is told what its run has scored
        results = json.loads(Path(one.user_attrs[RUN], "results.json").read_text())
        assert one.value == results["domain"]["score"]
        assert one.constraints[BOUND] == pytest.approx(0.08 if one.params["lr"] > 3e-3 else -0.02)
    assert {one.params["lr"] > 3e-3 for one in whole.trials} == {True, False}
    allowed = [one for one in whole.trials if one.params["lr"] <= 3e-3]
    assert whole.best_trial.number == max(allowed, key=lambda one: one.value).number
    first, other = (searched(Scores(tmp_path), 1, f"of-{n}", search_seed=n) for n in (0, 1))
    assert first.trials[0].params == whole.trials[0].params != other.trials[0].params
    (tmp_path / "made.txt").unlink()
    for dies_at in (1, 2, 3):  # scoring the base, then within two of the trials
        with pytest.raises(SystemExit):
            searched(Scores(tmp_path, {dies_at}), 4)
    study = searched(Scores(tmp_path), 4)
    assert [one.params for one in study.trials] == [one.params for one in whole.trials]
    assert [one.value for one in study.trials] == [one.value for one in whole.trials]
    assert len({tuple(one.params.values()) for one in study.trials}) == 4
    runs = [run for _, run in runs_made(tmp_path)]
    assert len(runs) == len(set(runs)) == 4
    journal = tmp_path / "runs" / "s" / "search" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_i')  # by a process that was killed while it wrote
    tried = [one.params for one in searched(Scores(tmp_path), 5).trials]
    assert tried[:4] == [one.params for one in whole.trials]
    assert len(runs_made(tmp_path)) == len(tried) == 5, "it goes on where more is asked for"


@pytest.mark.parametrize("bounds", [(0.02, 0.2), (0.2, 0.02)], ids=["raised", "lowered"])
def test_another_bound_is_judged_by_itself_and_finds_the_runs_that_are_done(
    found_here, tmp_path, bounds
):
    for bound in bounds:
        study = searched(Scores(tmp_path), 4, max_general_loss=bound)
        for one in study.trials:
            loss = 0.1 if one.params["lr"] > 3e-3 else 0.0
            assert one.constraints[BOUND] == pytest.approx(loss - bound)
    runs = [run for _, run in runs_made(tmp_path)]
    assert len(runs) == len(set(runs)) == 4


def test_a_damaged_journal_is_named_and_made_again_with_the_same_trials(found_here, tmp_path):
    tried = [one.params for one in searched(Scores(tmp_path), 2).trials]
    runs = runs_made(tmp_path)
    journal = tmp_path / "runs" / "s" / "search" / "journal.jsonl"
    content = journal.read_bytes()
    for harm in (
        lambda: journal.write_bytes(content.replace(b'"trial_id"', b'"trial_ie"', 1)),
        lambda: journal.write_bytes(content.replace(b'"directions":[2]', b'"directions":7')),
        lambda: journal.write_bytes(content.replace(b'"directions":[2]', b'"directions":[]')),
        lambda: journal.write_bytes(re.sub(rb'"values":\[.*?\]', b'"values":["x"]', content)),
        lambda: journal.write_bytes(re.sub(rb'"values":\[.*?\]', b'"values":[1e999]', content)),
        *(
            lambda lost=lost: journal.write_bytes(
                b"".join(line for line in content.splitlines(True) if lost not in line)
            )
            for lost in (f'{{"{OVERRIDES}"'.encode(), f'{{"{RUN}"'.encode(), BOUND.encode())
        ),
        lambda: journal.write_bytes(content.decode().encode("utf-16")),
        lambda: journal.symlink_to(journal.name),
    ):
        journal.unlink()
        harm()
        with pytest.raises(UserError, match=r"journal\.jsonl is damaged .*: delete it"):
            searched(Scores(tmp_path), 2)
    journal.unlink()
    assert [one.params for one in searched(Scores(tmp_path), 2).trials] == tried
    assert runs_made(tmp_path) == runs


def test_a_journal_that_cannot_grow_is_one_line_and_goes_on(tmp_path):
    """No file may become larger than the limit: as on a full disk, half a line is written."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path, SPACE, FIXED, 0, 0.02).next_trial(1) as trial:
        file = tmp_path / "search" / "journal.jsonl"
        limit = max(1000, file.stat().st_size + 20)  # the files about the lock are smaller
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write .*/journal\.jsonl: the file would"):
                trial.set_user_attr(RUN, "x" * 2000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert file.stat().st_size == limit
    journal = Journal(tmp_path, SPACE, FIXED, 0, 0.02)
    with journal.next_trial(1) as again:
        assert again.number == trial.number
        journal.study.tell(again, 0.5)
    assert [(one.value, one.user_attrs) for one in journal.study.trials] == [(0.5, {})]


def test_several_processes_share_the_trials(found_here, tmp_path):
    fork = multiprocessing.get_context("fork")
    began = fork.Barrier(2)

    class Slow(Scores):
        """Its first run lasts until the other process has begun one."""

        is_first = True

        def submit(self, jobs, stop):
            for one in super().submit(jobs, stop):
                if one.job.command == "train" and self.is_first:
                    self.is_first = False
                    began.wait(60)
                yield one

    both = [fork.Process(target=searched, args=(Slow(tmp_path), 4)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    found = runs_made(tmp_path)
    assert len(found) == len({run for _, run in found}) == 4
    assert {process for process, _ in found} == {str(one.pid) for one in both}
    study = searched(Scores(tmp_path), 4)
    assert [one.state.name for one in study.trials] == ["COMPLETE"] * 4
    assert len(runs_made(tmp_path)) == 4, "a search that is done makes nothing"


def test_a_trial_below_the_median_at_a_point_is_pruned(found_here, tmp_path, monkeypatch):
    def train_until(job, point, stop):
        point.model.mkdir(parents=True)

    def score(job, launcher, stop):
        (alone,) = expand_grid(
            [one for one in job.overrides if not one.startswith("score_at=[")], None
        )
        assert alone.config == job.config, "what is typed makes the point and nothing else"
        write_scores(job.config, job.directory)

    monkeypatch.setattr(module, "_train_until", train_until)
    monkeypatch.setattr(module, "_score", score)
    own = Search(
        SPACE,
        [*FIXED, "study=s", "score_at=[0.25,0.5]"],
        None,
        SearchConfig(n_trials=6, max_general_loss=1.0),
        functools.partial(lambda launcher, device: launcher, Scores(tmp_path)),
    )
    study = own.run(Stop()).study
    pruned = [one for one in study.trials if one.state.name == "PRUNED"]
    done = [one for one in study.trials if one.state.name == "COMPLETE"]
    assert len(pruned) + len(done) == 6
    assert pruned
    assert all(one.intermediate_values.keys() == {250, 500} for one in done)
    assert all(one.intermediate_values.keys() == {250} for one in pruned)
    trained = {run for _, run in runs_made(tmp_path)}
    assert len(trained) == len(done)


@pytest.mark.parametrize(
    ("domain", "loss", "expected"), [(0.5, 0.05, 0.2), (0.5, 0.02, 0.5), (0.5, -0.3, 0.5)]
)
def test_only_a_general_loss_beyond_the_bound_counts_against_a_score(domain, loss, expected):
    """Ten times."""
    search = Search(SPACE, FIXED, None, SearchConfig(max_general_loss=0.02), Scores)
    assert search._penalised_score(domain, loss) == pytest.approx(expected)


class ImpatientStop:
    """Ctrl-C a second time, after the first."""

    asked = 0

    @property
    def requested(self):
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt
        return False


def test_no_training_outlives_a_search_that_is_stopped_at_once(tmp_path, monkeypatch):
    training = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(Job, "start", lambda self, environment: training)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        module._train_until(Job("train", (), None, run), run, ImpatientStop())
    assert training.returncode is not None


def test_the_space_is_what_is_typed_in_hydras_grammar():
    typed = ["lr=tag(log,interval(1e-6,1e-3))", "seed=range(0,6,2)", "method=sft,l2", "model=tiny"]
    space, fixed = parse_space(typed, None)
    assert space == [
        Interval("lr", 1e-6, 1e-3, log=True),
        OrderedValues("seed", ("0", "2", "4")),
        Categories("method", ("sft", "l2")),
    ]
    assert fixed == ["model=tiny"]
    with pytest.raises(UserError, match="there is nothing to search"):
        parse_space(["lr=1e-5"], None)
    with pytest.raises(UserError, match="not an interval from a number to a larger one"):
        parse_space(["lr=interval(1e-3,1e-6)"], None)


@pytest.mark.slow
def test_a_search_of_real_runs_is_pruned_and_gone_on_with(tmp_path):
    typed = (*SMALL, "score_at=[0.5]", "lr=tag(log,interval(1e-5,1e-2))", "max_general_loss=1")
    done = talr("search", *typed, "n_trials=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "search: 2 done" in done.stdout
    assert "next: talr recommend study=default" in done.stdout
    again = talr("search", *typed, "n_trials=4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "trial 1 of" not in again.stderr
    counts = re.search(r"search: (.*)", again.stdout)[1]
    assert sum(map(int, re.findall(r"\d+", counts))) == 4
    # A training that was asked to stop at its point goes on near it, and is made once.
    for log in tmp_path.glob("runs/*/*/sft-*/train.log"):
        if "-at0.5-" not in log.parent.name:
            ends_early = "is pruned" in again.stderr + done.stderr
            assert re.search("going on from step [678]", log.read_text()) or ends_early
