"""Searches a space of values for the best domain score at a bounded loss of general ability.

Each trial is a run of the study, which is found, resumed and owned by one process as by
`talr train`. Optuna chooses the next values by the domain scores and general losses so far.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import Trial, TrialState

from talr_cli.config.commands import SearchConfig
from talr_cli.errors import UserError
from talr_cli.interruption import Stop
from talr_cli.models.sources import ModelSource
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results, study_path
from talr_cli.statistics.pairs import PARTS, Results, is_base, mismatch, score_of
from talr_cli.sweep.drive import run_jobs
from talr_cli.sweep.grid import Point, expand_grid
from talr_cli.sweep.jobs import Job, Launcher
from talr_cli.sweep.journal import BOUND, OVERRIDES, RUN, Journal
from talr_cli.sweep.local import terminate
from talr_cli.sweep.plan import find_models, make_jobs, model_key
from talr_cli.sweep.space import Dimension

# How much domain score each point of general loss beyond the bound costs when trials are pruned.
# Optuna's pruner takes a single number, and no gain on the domain should make up for such a loss.
PENALTY = 10.0
POLL = 0.2  # seconds between checks of a training

log = logging.getLogger(__name__)


@dataclass
class Search:
    """A search, until its processes have begun `options.n_trials` trials in all."""

    space: Sequence[Dimension]
    fixed: Sequence[str]
    config_dir: Path | None
    options: SearchConfig
    launcher: Callable[[str], Launcher]
    _sources: dict[str, ModelSource | None] = field(default_factory=dict)

    def run(self, stop: Stop) -> Journal:
        """Run trials, except those that other processes are running."""
        journal = Journal(
            self._study_folder(),
            self.space,
            self.fixed,
            self.options.search_seed,
            self.options.max_general_loss,
        )
        while not stop.requested:
            with journal.next_trial(self.options.n_trials) as trial:
                if trial is None:
                    break
                self._run_trial(journal, trial, stop)
        return journal

    def _study_folder(self) -> Path:
        """The folder of the study; the values of the command are checked as well."""
        config = self._single_point([*self.fixed, *(one.first for one in self.space)]).config
        if not config.eval:
            raise UserError("a search needs scores: leave out eval=false")
        return study_path(Path(config.runs_dir), config.study)

    def _single_point(self, overrides: Sequence[str]) -> Point:
        points = expand_grid(overrides, self.config_dir)
        if len(points) > 1:
            raise UserError("the experiment has a grid: type a value for each of its lists")
        return points[0]

    def _run_trial(self, journal: Journal, trial: Trial, stop: Stop) -> None:
        """Make the trial's run and report its scores; after a stop the trial can be resumed."""
        values = [one.suggest(trial) for one in self.space]
        log.info("trial %d of %d: %s", trial.number + 1, self.options.n_trials, " ".join(values))
        point = self._single_point([*self.fixed, *values])
        key = model_key(point.config)
        if key not in self._sources:
            self._sources |= find_models([point], fetch=True)
        jobs = make_jobs([point], self._sources, self.config_dir)
        launcher = self.launcher(point.config.device)
        own = [job for job in jobs if job.command == "train" and not job.is_dependency]
        trial.set_user_attr(OVERRIDES, " ".join(values))
        bases = [job for job in jobs if job.command == "eval"]
        scored = run_jobs(bases, launcher, False, "final", stop)
        if stop.requested:
            return
        if not all(one.is_good for one in scored.values()):
            raise UserError(f"the base model could not be scored, see {bases[0].log}")
        if self._is_pruned(trial, own[-1], point, launcher, stop):
            journal.study.tell(trial, state=TrialState.PRUNED)
            log.info("trial %d is pruned: it is worse than the median trial", trial.number + 1)
            return
        outcomes = run_jobs(jobs, launcher, False, "final", stop)
        if stop.requested:
            return
        good = [job.directory for job in own if outcomes[job.directory.path].is_good]
        if not good:
            journal.study.tell(trial, state=TrialState.FAIL)
            return
        scores = {directory.path: self._read_scores(directory, point) for directory in good}
        best = max(scores, key=lambda path: self._penalised_score(*scores[path]))
        domain, loss = scores[best]
        trial.set_user_attr(RUN, str(best))
        trial.set_constraint(BOUND, loss - self.options.max_general_loss)
        journal.study.tell(trial, domain)

    def _is_pruned(
        self, trial: Trial, job: Job, point: Point, launcher: Launcher, stop: Stop
    ) -> bool:
        """Train from point to point of `score_at`; returns whether the trial is pruned at one."""
        if not self.options.prune or point.config.merge is not None:
            return False
        reported = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for config, directory in job.points:
            step = round(1000 * config.at)
            if step not in reported:
                if directory.read_results() is None:
                    _train_until(job, directory, stop)
                    if stop.requested or not directory.model.exists():
                        return False  # it has failed, which the whole run will report
                    alone = (*job.overrides, "score_at=null", f"at={config.at}")
                    _score(Job("train", alone, config, directory), launcher, stop)
                    if stop.requested or directory.read_results() is None:
                        return False
                trial.report(self._penalised_score(*self._read_scores(directory, point)), step)
            if trial.should_prune():
                return True
        return False

    def _read_scores(self, directory: RunDirectory, point: Point) -> tuple[float, float]:
        """(domain score, loss of general score against the base)."""
        results = directory.read_results()
        if results is None:
            raise UserError(f"{directory.path} has no scores")
        domain, general = (score_of(results, part) for part in PARTS)
        if domain is None or general is None:
            raise UserError(
                "a search needs the domain and the general score of a run: one is missing"
            )
        config = point.config
        bases = [one for one in load_results(Path(config.runs_dir), config.study) if is_base(one)]
        return domain, _base_score(bases, results) - general

    def _penalised_score(self, domain: float, loss: float) -> float:
        """The domain score, minus PENALTY times the general loss beyond the bound."""
        return domain - PENALTY * max(0.0, loss - self.options.max_general_loss)


def _train_until(job: Job, point: RunDirectory, stop: Stop) -> None:
    """Train until the weights of the point are saved, then stop the training at a checkpoint.

    Only then is the point scored, since the training uses all of the memory.
    """
    if point.model.exists():
        return
    log.info("training up to a point: %s", job.log)
    process = job.start({})
    try:
        while process.poll() is None:
            if stop.requested or (point.model.exists() and point.read_status().state != "pending"):
                process.terminate()
                process.wait()
            else:
                time.sleep(POLL)
    finally:  # a second Ctrl-C reaches this process alone
        terminate([process])


def _score(job: Job, launcher: Launcher, stop: Stop) -> None:
    """Score the saved weights of a point."""
    log.info("scoring the point: %s", job.log)
    for _ in launcher.submit([job], stop):
        pass


def _base_score(bases: Sequence[Results], results: Results) -> float:
    """The base model's general score, measured in the same way as the run's.

    Raises:
        UserError: It was measured in another way, or of another model with the same name.
    """
    reasons = []
    for base in bases:
        reason = mismatch(base, results, "general")
        score = score_of(base, "general")
        if reason is None and score is not None:
            return score
        reasons.append(reason or "its general score is not a number")
    raise UserError(
        "the loss of general ability cannot be measured from the base model's scores: "
        f"{reasons[0] if reasons else 'there are none'}: run `talr eval` with the same model, "
        "dataset and suite"
    )
