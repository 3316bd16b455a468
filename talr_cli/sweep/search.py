"""Searches a space of values for the best domain score at a bounded loss of general ability.

Each trial is a run of the study as `talr train` makes it: found again, resumed, owned by one
process. Optuna chooses the next values, by the domain scores and the general losses so far.
"""

from __future__ import annotations

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
from talr_cli.sweep.drive import drive
from talr_cli.sweep.grid import Point, points
from talr_cli.sweep.jobs import Job, Launcher
from talr_cli.sweep.journal import Journal
from talr_cli.sweep.local import end
from talr_cli.sweep.plan import find_models, jobs_of, model_key
from talr_cli.sweep.space import Dimension

# Points of domain score that each point of general loss beyond the bound costs, where trials are
# pruned. Optuna's pruner takes a single number, and no gain on the domain should make up for it.
PENALTY = 10.0
BOUND = "general loss beyond the bound"
# A trial's attributes: what was typed for it, and the directory of its run.
TYPED = "typed"
RUN = "run"
POLL = 0.2  # seconds between looks at a training

log = logging.getLogger(__name__)


@dataclass
class Search:
    """A search that goes on until `options.n_trials` trials were begun, by all its processes."""

    space: Sequence[Dimension]
    fixed: Sequence[str]
    config_dir: Path | None
    options: SearchConfig
    launcher: Callable[[str], Launcher]
    _sources: dict[str, ModelSource | None] = field(default_factory=dict)

    def run(self, stop: Stop) -> Journal:
        """Make trials; those that other processes make now are left to them."""
        journal = Journal(self._study(), self.space, self.fixed, self.options.search_seed)
        while not stop.requested:
            with journal.next_trial(self.options.n_trials) as trial:
                if trial is None:
                    break
                self._make(journal, trial, stop)
        return journal

    def _study(self) -> Path:
        """The folder of the study; composing the first values also checks the command."""
        config = self._point([*self.fixed, *(one.first for one in self.space)]).config
        if not config.eval:
            raise UserError("a search needs scores: leave eval=false out")
        return study_path(Path(config.runs_dir), config.study)

    def _point(self, overrides: Sequence[str]) -> Point:
        found = points(overrides, self.config_dir)
        if len(found) > 1:
            raise UserError("the experiment brings a grid along: type each value of its lists")
        return found[0]

    def _make(self, journal: Journal, trial: Trial, stop: Stop) -> None:
        """Make the trial's run and report its scores; after a stop the trial can be resumed."""
        chosen = [one.suggest(trial) for one in self.space]
        log.info("trial %d of %d: %s", trial.number + 1, self.options.n_trials, " ".join(chosen))
        point = self._point([*self.fixed, *chosen])
        key = model_key(point.config)
        if key not in self._sources:
            self._sources |= find_models([point], fetch=True)
        jobs = jobs_of([point], self._sources, self.config_dir)
        launcher = self.launcher(point.config.device)
        own = [job for job in jobs if job.command == "train" and not job.also]
        trial.set_user_attr(TYPED, " ".join(chosen))
        bases = [job for job in jobs if job.command == "eval"]
        scored = drive(bases, launcher, False, "final", stop)
        if stop.requested:
            return
        if not all(one.is_good for one in scored.values()):
            raise UserError(f"the base model could not be scored, see {bases[0].log}")
        if self._is_pruned(trial, own[-1], point, launcher, stop):
            journal.study.tell(trial, state=TrialState.PRUNED)
            log.info("trial %d ends here: it is worse than the usual one", trial.number + 1)
            return
        outcomes = drive(jobs, launcher, False, "final", stop)
        if stop.requested:
            return
        ended = [outcomes[job.directory.path] for job in own]
        if not any(one.is_good for one in ended):
            journal.study.tell(trial, state=TrialState.FAIL)
            return
        good = [one.directory for one, ending in zip(own, ended, strict=True) if ending.is_good]
        scores = {directory.path: self._scores(directory, point) for directory in good}
        best = max(scores, key=lambda path: self._worth(*scores[path]))
        domain, loss = scores[best]
        trial.set_user_attr(RUN, str(best))
        trial.set_constraint(BOUND, loss - self.options.max_general_loss)
        journal.study.tell(trial, domain)

    def _is_pruned(
        self, trial: Trial, job: Job, point: Point, launcher: Launcher, stop: Stop
    ) -> bool:
        """Train from point to point of `score_at`; whether the pruner ends the trial at one."""
        if not self.options.prune or point.config.merge is not None:
            return False
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for config, directory in job.points:
            step = round(1000 * config.at)
            if step not in known:
                if directory.read_results() is None:
                    _train_until(job, directory, stop)
                    if stop.requested or not directory.model.exists():
                        return False  # it has failed, which making the whole run will report
                    alone = (*job.overrides, "score_at=null", f"at={config.at}")
                    _score(Job("train", alone, config, directory), launcher, stop)
                    if stop.requested or directory.read_results() is None:
                        return False
                trial.report(self._worth(*self._scores(directory, point)), step)
            if trial.should_prune():
                return True
        return False

    def _scores(self, directory: RunDirectory, point: Point) -> tuple[float, float]:
        """(domain score, loss of general score against the base)."""
        results = directory.read_results()
        if results is None:
            raise UserError(f"{directory.path} has no scores")
        domain, general = (score_of(results, part) for part in PARTS)
        if domain is None or general is None:
            raise UserError("a search needs both scores of a run, and one of them is missing")
        config = point.config
        bases = [one for one in load_results(Path(config.runs_dir), config.study) if is_base(one)]
        return domain, _base_score(bases, results) - general

    def _worth(self, domain: float, loss: float) -> float:
        """The domain score, less PENALTY for what the general loss is beyond the bound."""
        return domain - PENALTY * max(0.0, loss - self.options.max_general_loss)


def _train_until(job: Job, point: RunDirectory, stop: Stop) -> None:
    """Train until the weights of the point are saved, then stop the training at a checkpoint.

    The point is scored after that, since the training has planned with all of the memory.
    """
    if point.model.exists():
        return
    log.info("training up to a point of it: %s", job.log)
    process = job.start({})
    try:
        while process.poll() is None:
            if stop.requested or (point.model.exists() and point.read_status().state != "pending"):
                process.terminate()
                process.wait()
            else:
                time.sleep(POLL)
    finally:  # a second Ctrl-C reaches this process alone
        end([process])


def _score(job: Job, launcher: Launcher, stop: Stop) -> None:
    """Score the saved weights of a point."""
    log.info("scoring the point: %s", job.log)
    for _ in launcher.submit([job], stop):
        pass


def _base_score(bases: Sequence[Results], results: Results) -> float:
    """The base model's general score, measured as that of the run.

    Raises:
        UserError: It was measured otherwise, or is another model of the same name.
    """
    reasons = []
    for base in bases:
        reason = mismatch(base, results, "general")
        score = score_of(base, "general")
        if reason is None and score is not None:
            return score
        reasons.append(reason or "its general score is not a number")
    raise UserError(
        "no loss of general ability can be measured from the base model's scores: "
        f"{reasons[0] if reasons else 'there are none'}: type `talr eval` with the same model, "
        "dataset and suite"
    )
