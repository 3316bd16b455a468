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
from talr_cli.runs.names import is_but_for_identity
from talr_cli.runs.to_type import study_command
from talr_cli.statistics.power import power_text
from talr_cli.streams import fold_line
from talr_cli.sweep.detached import Submission
from talr_cli.sweep.jobs import Job, Outcome, State
from talr_cli.sweep.needs import left_of
from talr_cli.sweep.plan import Plan

if TYPE_CHECKING:
    from talr_cli.report.tables.cells import Cells

_LATER = {"failed": "failed (retry_failed=true)", "elsewhere": "running elsewhere"}


def show_plan(plan: Plan) -> None:
    """Print every job with its state, then what the jobs need."""
    from talr_cli.report.tables.screen import print_cells  # rich takes its time

    pairs = _pairs(plan)
    if len(pairs) == 1:
        print(printable("{} on {}:".format(*pairs[0])))
    print_cells(plan_cells(plan))
    for line in _totals(plan):
        print(fold_line(line))


def plan_cells(plan: Plan) -> Cells:
    """A row for each job; with columns of model and dataset where there are several."""
    from talr_cli.report.tables.cells import Cells, Column, named, pair_columns

    columns = [Column("run", "run"), Column("state", "state"), Column("shares", "shares")]
    rows = []
    for job, now in zip(plan.jobs, plan.states, strict=True):
        config, later = job.config, now if plan.retry_failed else _LATER.get(now, now)
        words = (config.model.name, config.dataset.name, job.directory.path.name, later)
        rows.append([named(word) for word in (*words, _shares(job))])
    return Cells([*pair_columns(len(_pairs(plan))), *columns], rows)


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    found = ((job.config.model.name, job.config.dataset.name) for job in plan.jobs)
    return list(dict.fromkeys(found))


def show_summary(jobs: Sequence[Job], outcomes: Mapping[Path, Outcome]) -> None:
    """Print what became of the jobs, and the reason of each that is not done."""
    counts = Counter(outcome.word for outcome in outcomes.values())
    counts["left"] = len(jobs) - len(outcomes)
    print("sweep: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count))
    for path, outcome in outcomes.items():
        if not outcome.is_good:
            reason = (outcome.reason.strip().splitlines() or ["no reason given"])[-1]
            print(f"  {outcome.word}: {path}: {reason}")


def show_submissions(submissions: Sequence[Submission]) -> None:
    """Print what was submitted and what was not, and the next commands."""
    counts = Counter(one.word for one in submissions)
    print("sweep: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    numbers = [one.number for one in submissions if one.word == "submitted" and one.number]
    if numbers:
        print(f"jobs: {', '.join(numbers)}")
    studies = ((one.job.config.runs_dir, one.job.config.study) for one in submissions)
    for where in dict.fromkeys(studies):
        status, stop = (study_command(command, *where) for command in ("status", "stop"))
        print(f"next: {status}; {study_command('logs', *where, 'RUN')}; {stop}")


def _totals(plan: Plan) -> Iterator[str]:
    counts = Counter(plan.states)
    yield "runs: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    if plan.seconds is None:
        yield "time: unknown until a run of each model and dataset of the study is finished"
    else:
        made = "of training and scoring, by the finished runs of the study"
        yield f"time: about {_duration(plan.seconds)} {made}"
    if plan.disk is None:
        yield f"disk: unknown until the weights are here; {gib(plan.free)} are free"
    else:
        yield f"disk: up to {gib(plan.disk)}; {gib(plan.free)} are free"
    if plan.memory is not None:
        yield f"memory: {plan.memory}"
    for job in plan.jobs:
        scored = job.directory.read_results() if job.command == "eval" else None
        if scored is not None and (told := power_text(scored)):
            yield f"power: {job.config.model.name} on {job.config.dataset.name}: {told}"
    for note in (*plan.notes, *_namesakes(plan.jobs, plan.states)):
        yield f"note: {note}"


def _namesakes(jobs: Sequence[Job], states: Sequence[State]) -> list[str]:
    """Why runs are to do of whose name there are finished ones already."""
    found = []
    for job, now in zip(jobs, states, strict=True):
        folder, name = job.directory.path.parent, job.directory.path.name.rpartition("-")[0]
        if now == "to do" and name and folder.is_dir():
            others = (one for one in folder.iterdir() if is_but_for_identity(one.name, name))
            found += sorted(one for one in others if (one / "results.json").is_file())[:1]
    if not found:
        return []
    return [
        f"{len(found)} of the runs to do have the names of finished ones that were made with "
        f"other values or other rows: `talr show {found[0]}` says with which"
    ]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _shares(job: Job) -> str:
    if job.command == "eval":
        return "base scores: once for all runs"
    if job.needs is not None:
        return f"weights of {job.needs.path.name}"
    if job.points and is_done(cast(TrainConfig, job.config), job.directory):
        share, scores = left_of(job)
        if scores:
            again = (
                f"trained again to {share:g} of its steps" if share else "their weights are kept"
            )
            return f"{scores} of its points: {again}"
    if job.also:
        return "only to be averaged"
    if isinstance(job.config, TrainConfig) and job.config.objective.needs_base_losses:
        return "base losses: once for all such runs"
    return ""
