"""The plan and the summary of a sweep, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from talr_cli.models.device_memory import gib
from talr_cli.printable import printable
from talr_cli.run.config import TrainConfig
from talr_cli.run.execute import is_done
from talr_cli.runs.names import matches_without_identity
from talr_cli.runs.next_command import study_command
from talr_cli.statistics.power import power_text
from talr_cli.streams import fold_line
from talr_cli.sweep.detached import Submission
from talr_cli.sweep.jobs import Job, Outcome, State
from talr_cli.sweep.needs import remaining_work
from talr_cli.sweep.plan import Plan

if TYPE_CHECKING:
    from talr_cli.report.tables.cells import Cells

_STATES = {"failed": "failed (retry_failed=true)", "elsewhere": "running elsewhere"}


def show_plan(plan: Plan) -> None:
    """Print every job with its state, then what the jobs need."""
    from talr_cli.report.tables.screen import print_cells  # importing rich is slow

    pairs = _pairs(plan)
    if len(pairs) == 1:
        print(printable("{} on {}:".format(*pairs[0])))
    print_cells(plan_cells(plan))
    for line in _totals(plan):
        print(fold_line(line))


def plan_cells(plan: Plan) -> Cells:
    """A row for each job; with columns for model and dataset if there are several."""
    from talr_cli.report.tables.cells import Cells, Column, named, pair_columns

    columns = [Column("run", "run"), Column("state", "state"), Column("shares", "shares")]
    rows = []
    for job, state in zip(plan.jobs, plan.states, strict=True):
        config, shown = job.config, state if plan.retry_failed else _STATES.get(state, state)
        values = (config.model.name, config.dataset.name, job.directory.path.name, shown)
        rows.append([named(value) for value in (*values, _shares(job))])
    return Cells([*pair_columns(len(_pairs(plan))), *columns], rows)


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    found = ((job.config.model.name, job.config.dataset.name) for job in plan.jobs)
    return list(dict.fromkeys(found))


def show_summary(jobs: Sequence[Job], outcomes: Mapping[Path, Outcome]) -> None:
    """Print the numbers of outcomes, and the reason of each job that is not done."""
    counts = Counter(outcome.result for outcome in outcomes.values())
    counts["left"] = len(jobs) - len(outcomes)
    print("sweep: " + ", ".join(f"{count} {result}" for result, count in counts.items() if count))
    for path, outcome in outcomes.items():
        if not outcome.is_good:
            reason = (outcome.reason.strip().splitlines() or ["no reason given"])[-1]
            print(f"  {outcome.result}: {path}: {reason}")


def show_submissions(submissions: Sequence[Submission]) -> None:
    """Print what was submitted and what was not, and the next commands."""
    counts = Counter(one.result for one in submissions)
    print("sweep: " + ", ".join(f"{count} {result}" for result, count in counts.items()))
    numbers = [one.number for one in submissions if one.result == "submitted" and one.number]
    if numbers:
        print(f"jobs: {', '.join(numbers)}")
    studies = ((one.job.config.runs_dir, one.job.config.study) for one in submissions)
    for study in dict.fromkeys(studies):
        status, stop = (study_command(command, *study) for command in ("status", "stop"))
        print(f"next: {status}; {study_command('logs', *study, 'RUN')}; {stop}")


def _totals(plan: Plan) -> Iterator[str]:
    counts = Counter(plan.states)
    yield "runs: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    if counts.keys() != {"done"}:
        yield from _costs(plan)
    for job in plan.jobs:
        results = job.directory.read_results() if job.command == "eval" else None
        if results is not None and (power := power_text(results)):
            yield f"power: {job.config.model.name} on {job.config.dataset.name}: {power}"
    for note in (*plan.notes, *_namesakes(plan.jobs, plan.states)):
        yield f"note: {note}"


def _costs(plan: Plan) -> Iterator[str]:
    """The time, disk and memory that the unfinished runs take."""
    if plan.seconds is None:
        yield "time: unknown until a run of each model and dataset of the study is finished"
    else:
        basis = "of training and scoring, by the finished runs of the study"
        yield f"time: about {_duration(plan.seconds)} {basis}"
    if plan.disk is None:
        yield f"disk: unknown until the weights are here; {gib(plan.free)} are free"
    else:
        yield f"disk: up to {gib(plan.disk)}; {gib(plan.free)} are free"
    if plan.memory is not None:
        yield f"memory: {plan.memory}"


def _namesakes(jobs: Sequence[Job], states: Sequence[State]) -> list[str]:
    """A note if finished runs have the names of runs that are to do, but another identity."""
    found = []
    for job, state in zip(jobs, states, strict=True):
        folder, name = job.directory.path.parent, job.directory.path.name.rpartition("-")[0]
        if state == "to do" and name and folder.is_dir():
            others = (one for one in folder.iterdir() if matches_without_identity(one.name, name))
            found += sorted(one for one in others if (one / "results.json").is_file())[:1]
    if not found:
        return []
    return [
        f"{len(found)} of the runs to do have the names of finished ones, which were made with "
        f"other values or other rows: `talr show {found[0]}` shows with which"
    ]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _shares(job: Job) -> str:
    if job.command == "eval":
        return "base scores: once for all runs"
    if job.depends_on is not None:
        return f"weights of {job.depends_on.path.name}"
    if job.points and is_done(cast(TrainConfig, job.config), job.directory):
        share, scores = remaining_work(job)
        if scores:
            again = (
                f"trained again to {share:g} of its steps" if share else "their weights are kept"
            )
            return f"{scores} of its points: {again}"
    if job.is_dependency:
        return "only to be averaged"
    if isinstance(job.config, TrainConfig) and job.config.objective.needs_base_losses:
        return "base losses: once for all such runs"
    return ""
