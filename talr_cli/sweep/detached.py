"""Submits the jobs of a detached sweep to SLURM, one batch script each.

SLURM keeps their order by dependencies. Submitted jobs are found in its queue by their comment, the
run directory, so scripts that were submitted by hand are found as well. A file of the study keeps
the job numbers, by which the accounting knows how the jobs ended.
"""

import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from talr_cli.config.commands import SlurmConfig
from talr_cli.errors import UserError, reason_of
from talr_cli.runs.atomic import append_json_line, write_text
from talr_cli.runs.damage import warn_of_damaged_lines
from talr_cli.runs.disk import make_folder
from talr_cli.runs.lease import hold
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import study_path
from talr_cli.sweep import slurm
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.plan import Plan, job_state
from talr_cli.sweep.slurm import QueuedJob

log = logging.getLogger(__name__)

FOLDER = ".slurm"  # in the folder of a study
TEMPLATE = Path(__file__).with_name("job.sh")
PORT = 29400  # the first of 1000 ports on which the processes of several nodes may meet
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Submission:
    """The result for a job, and its number in the queue if it has one.

    `result`: submitted, in the queue, found done, running elsewhere, failed before, not submitted.
    """

    job: Job
    result: str
    number: str | None = None
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.result not in ("failed before", "not submitted")


def job_name(study: str) -> str:
    """The name in the queue of all jobs of a study."""
    return f"talr-{study}"


def queued_jobs(study_folder: Path) -> dict[Path, QueuedJob]:
    """{run directory: its last job} of a study, as far as SLURM's queue still lists it."""
    folder = study_folder.resolve()
    found: dict[Path, QueuedJob] = {}
    for job in slurm.jobs_named(job_name(study_folder.name)):
        path = Path(job.comment)
        if not path.is_relative_to(folder):
            continue
        best = found.setdefault(path, job)
        # A job that has not ended is preferred, then the later one.
        found[path] = min(best, job, key=lambda one: (one.has_ended, -int(one.number)))
    return found


def submitted_jobs(study_folder: Path) -> dict[Path, str]:
    """{run directory: the number of the last job that was submitted for it}.

    Raises:
        UserError: The file of them cannot be read: those runs would be submitted again.
    """
    file, numbers = _submissions_file(study_folder), {}
    try:
        lines = read_text(file, "replace").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({reason_of(error)}): it tells which jobs were submitted; "
            "restore it, or delete it if none of them is left"
        ) from error
    damaged = []
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
            numbers[study_folder.resolve() / str(one["run"])] = str(one["job"])
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(number)
    warn_of_damaged_lines(file, damaged)
    return numbers


def batch_script(job: Job, config: SlurmConfig) -> str:
    """The batch script of a job.

    Raises:
        UserError: The template cannot be read, or a placeholder is missing or unknown.
    """
    file = TEMPLATE if config.template is None else Path(config.template)
    try:
        template = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"slurm.template={file} cannot be read ({error})") from error
    values = {
        "options": "\n".join(f"#SBATCH {option}" for option in _options(job, config)),
        "folder": shlex.quote(str(Path.cwd())),
        "nodes": str(config.nodes),
        "python": shlex.quote(sys.executable),
        "arguments": _arguments(job, config),
        "requeues": str(config.requeues),
    }
    unknown = set(_PLACEHOLDER.findall(template)) - values.keys()
    missing = {"options", "arguments"} - set(_PLACEHOLDER.findall(template))
    if unknown or missing:
        names = ", ".join(f"{{{{{name}}}}}" for name in sorted(unknown or missing))
        verb = "is not a placeholder" if unknown else "is missing"
        raise UserError(f"slurm.template={file}: {names} {verb}; there are {', '.join(values)}")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def submit(plan: Plan, config: SlurmConfig) -> list[Submission]:
    """Submit the unfinished jobs of a plan, each after the one that it depends on.

    Jobs that are already in the queue, whoever submitted them, are left alone. Of two processes
    that submit the same study at the same time, one waits for the other.
    """
    found: list[Submission] = []
    for folder in dict.fromkeys(_study(job) for job in plan.jobs):
        jobs = [job for job in plan.jobs if _study(job) == folder]
        make_folder(folder / FOLDER)
        with hold(folder / FOLDER / ".lock", wait=True):
            for one in _submissions(jobs, folder, plan.retry_failed, config):
                found.append(one)
                words = " ".join(filter(None, (one.result, one.number, one.detail)))
                log.info("%s: %s", one.job.directory.path, words)
    return found


def _submissions(
    jobs: Sequence[Job], folder: Path, retry_failed: bool, config: SlurmConfig
) -> Iterator[Submission]:
    queue = {path: job for path, job in queued_jobs(folder).items() if not job.has_ended}
    numbers: dict[Path, str] = {path: job.number for path, job in queue.items()}
    failed: set[Path] = set()  # runs that will not be made
    for job in jobs:
        path = job.directory.path.resolve()
        state = job_state(job)
        needed = None if job.depends_on is None else job.depends_on.path.resolve()
        if state == "done":
            yield Submission(job, "found done")
        elif path in queue:
            yield Submission(job, "in the queue", queue[path].number)
        elif state == "elsewhere":
            yield Submission(job, "running elsewhere", detail=str(job.directory.owner()))
        elif state == "failed" and not retry_failed:
            failed.add(path)
            yield Submission(job, "failed before", detail="retry_failed=true tries again")
        elif needed in failed:
            failed.add(path)
            yield Submission(job, "not submitted", detail=f"{needed and needed.name} has failed")
        else:
            after = [numbers[needed]] if needed in numbers else []
            numbers[path] = _submit(job, folder, after, config)
            detail = f"after {after[0]}" if after else ""
            yield Submission(job, "submitted", numbers[path], detail)


def _submit(job: Job, folder: Path, after: Sequence[str], config: SlurmConfig) -> str:
    run = job.directory
    make_folder(run.path)
    if not run.status.exists():
        run.write_status("pending")
    text = batch_script(job, config)
    write_text(folder / FOLDER / f"{run.path.name}.sh", text)
    number = slurm.submit(text, after)
    name = str(run.path.resolve().relative_to(folder.resolve()))
    append_json_line(_submissions_file(folder), {"job": number, "run": name})
    return number


def _options(job: Job, config: SlurmConfig) -> Iterator[str]:
    run = job.directory.path.resolve()
    log_file = str(job.log.resolve()).replace("%", "%%")
    yield f"--job-name={job_name(_study(job).name)}"
    yield f'--comment="{_escape_quotes(str(run))}"'
    yield f'--output="{_escape_quotes(log_file)}"'
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
    """The arguments of Python; with several nodes, torchrun starts the processes of each."""
    arguments = shlex.join(["-m", "talr_cli.cli", job.command, *job.overrides])
    if config.nodes == 1:
        return arguments
    return (
        f"-P -m torch.distributed.run --nnodes={config.nodes} "
        f"--nproc-per-node={config.gpus or 1} --rdzv-backend=c10d "
        f'--rdzv-endpoint="$head:$(({PORT} + SLURM_JOB_ID % 1000))" '
        f'--rdzv-id="$SLURM_JOB_ID" {arguments}'
    )


def _escape_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _study(job: Job) -> Path:
    return study_path(Path(job.config.runs_dir), job.config.study)


def _submissions_file(study_folder: Path) -> Path:
    return study_folder / FOLDER / "jobs.jsonl"
