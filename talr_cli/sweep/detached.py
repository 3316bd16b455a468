"""The jobs of a sweep that does not wait for them: one batch script each, submitted to SLURM.

SLURM keeps their order. What was submitted is read from its queue, where a job's comment is its run
directory, so scripts that were submitted by hand are seen as well. A study also keeps the numbers
of its jobs, to ask the accounting how they ended.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from talr_cli.config.commands import SlurmConfig
from talr_cli.errors import UserError
from talr_cli.runs.atomic import append_json_line, write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.lease import hold
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import study_path
from talr_cli.sweep import slurm
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.plan import Plan, state
from talr_cli.sweep.slurm import QueuedJob

log = logging.getLogger(__name__)

FOLDER = ".slurm"  # of a study
TEMPLATE = Path(__file__).with_name("job.sh")
PORT = 29400  # the first of 1000 ports on which the processes of several nodes may meet
_MARK = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Submission:
    """What became of a job at its submission, and its number in the queue if it has one.

    `word`: submitted, in the queue, found done, running elsewhere, failed before or not submitted.
    """

    job: Job
    word: str
    number: str | None = None
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.word not in ("failed before", "not submitted")


def job_name(study: str) -> str:
    """What all jobs of a study are called in the queue."""
    return f"talr-{study}"


def queue_of(study_folder: Path) -> dict[Path, QueuedJob]:
    """{run directory: its last job} of a study, as far as the queue still knows."""
    folder = study_folder.resolve()
    found: dict[Path, QueuedJob] = {}
    for job in slurm.jobs_named(job_name(study_folder.name)):
        path = Path(job.comment)
        if not path.is_relative_to(folder):
            continue
        known = found.get(path)
        # A job that is not over counts before one that is, then the later one.
        if known is None or (known.is_over, -int(known.number)) > (job.is_over, -int(job.number)):
            found[path] = job
    return found


def submitted(study_folder: Path) -> dict[Path, str]:
    """{run directory: the number of the last job that was submitted for it}."""
    numbers: dict[Path, str] = {}
    with suppress(FileNotFoundError, ValueError):
        for line in read_text(_record(study_folder), "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError):  # a torn line
                one = json.loads(line)
                numbers[study_folder.resolve() / str(one["run"])] = str(one["job"])
    return numbers


def script(job: Job, config: SlurmConfig) -> str:
    """The batch script of a job.

    Raises:
        UserError: The template cannot be read, lacks a mark or has an unknown one.
    """
    file = TEMPLATE if config.template is None else Path(config.template)
    try:
        template = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"slurm.template={file} cannot be read ({error})") from error
    known = {
        "options": "\n".join(f"#SBATCH {option}" for option in _options(job, config)),
        "folder": shlex.quote(str(Path.cwd())),
        "nodes": str(config.nodes),
        "python": shlex.quote(sys.executable),
        "arguments": _arguments(job, config),
        "requeues": str(config.requeues),
    }
    unknown = set(_MARK.findall(template)) - known.keys()
    missing = {"options", "arguments"} - set(_MARK.findall(template))
    if unknown or missing:
        marks = ", ".join(f"{{{{{mark}}}}}" for mark in sorted(unknown or missing))
        verb = "is no mark" if unknown else "is missing"
        raise UserError(f"slurm.template={file}: {marks} {verb}; there are {', '.join(known)}")
    return _MARK.sub(lambda mark: known[mark[1]], template)


def submit(plan: Plan, config: SlurmConfig) -> list[Submission]:
    """Submit what is left to do of a plan, each job after the one that it needs.

    Jobs that are in the queue already, whoever submitted them, are left alone. Two processes that
    submit the same study at the same time wait for one another.
    """
    found: list[Submission] = []
    for folder in dict.fromkeys(_study(job) for job in plan.jobs):
        jobs = [job for job in plan.jobs if _study(job) == folder]
        make_folder(folder / FOLDER)
        with hold(folder / FOLDER / ".lock", wait=True):
            for one in _submissions(jobs, folder, plan.retry_failed, config):
                found.append(one)
                words = " ".join(filter(None, (one.word, one.number, one.detail)))
                log.info("%s: %s", one.job.directory.path, words)
    return found


def _submissions(
    jobs: Sequence[Job], folder: Path, retry_failed: bool, config: SlurmConfig
) -> Iterator[Submission]:
    queue = {path: job for path, job in queue_of(folder).items() if not job.is_over}
    numbers: dict[Path, str] = {path: job.number for path, job in queue.items()}
    bad: set[Path] = set()  # runs that will not be made
    for job in jobs:
        path = job.directory.path.resolve()
        now = state(job)
        need = None if job.needs is None else job.needs.path.resolve()
        if now == "done":
            yield Submission(job, "found done")
        elif path in queue:
            yield Submission(job, "in the queue", queue[path].number)
        elif now == "elsewhere":
            yield Submission(job, "running elsewhere", detail=str(job.directory.owner()))
        elif now == "failed" and not retry_failed:
            bad.add(path)
            yield Submission(job, "failed before", detail="retry_failed=true tries again")
        elif need in bad:
            bad.add(path)
            yield Submission(job, "not submitted", detail=f"{need and need.name} has failed")
        else:
            after = [numbers[need]] if need in numbers else []
            numbers[path] = _submit(job, folder, after, config)
            detail = f"after {after[0]}" if after else ""
            yield Submission(job, "submitted", numbers[path], detail)


def _submit(job: Job, folder: Path, after: Sequence[str], config: SlurmConfig) -> str:
    run = job.directory
    make_folder(run.path)
    if not run.status.exists():
        run.write_status("pending")
    text = script(job, config)
    write_text(folder / FOLDER / f"{run.path.name}.sh", text)
    number = slurm.submit(text, after)
    own = str(run.path.resolve().relative_to(folder.resolve()))
    append_json_line(_record(folder), {"job": number, "run": own})
    return number


def _options(job: Job, config: SlurmConfig) -> Iterator[str]:
    run = job.directory.path.resolve()
    log_file = str(job.log.resolve()).replace("%", "%%")
    yield f"--job-name={job_name(_study(job).name)}"
    yield f'--comment="{_in_quotes(str(run))}"'
    yield f'--output="{_in_quotes(log_file)}"'
    yield "--open-mode=append"
    yield "--requeue"
    yield f"--signal=B:USR1@{config.grace}"
    yield f"--time={config.minutes}"
    yield f"--nodes={config.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={config.cpus}"
    if config.gpus:
        yield f"--gpus-per-node={config.gpus}"
    for name, wanted in (
        ("mem", config.memory),
        ("partition", config.partition),
        ("account", config.account),
    ):
        if wanted is not None:
            yield f"--{name}={wanted}"
    yield from config.options


def _arguments(job: Job, config: SlurmConfig) -> str:
    """The interpreter's arguments; on several nodes torchrun starts the processes of each."""
    own = shlex.join(["-m", "talr_cli.cli", job.command, *job.overrides])
    if config.nodes == 1:
        return own
    each = config.gpus or 1
    return (
        f"-P -m torch.distributed.run --nnodes={config.nodes} --nproc-per-node={each} "
        f'--rdzv-backend=c10d --rdzv-endpoint="$head:$(({PORT} + SLURM_JOB_ID % 1000))" '
        f'--rdzv-id="$SLURM_JOB_ID" {own}'
    )


def _in_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _study(job: Job) -> Path:
    return study_path(Path(job.config.runs_dir), job.config.study)


def _record(study_folder: Path) -> Path:
    return study_folder / FOLDER / "jobs.jsonl"
