"""Calls SLURM's commands. Knows SLURM's jobs, but not runs.

An error of a command becomes a UserError of one line, with the remedy if it is known.
"""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from talr_cli.errors import UserError

TIMEOUT = 90.0  # seconds for an answer; SLURM itself tries to reach its controller for a minute
ENDED = {  # states of a job that has ended
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"),
    *("BOOT_FAIL", "DEADLINE", "REVOKED"),
}
# States of a job in the queue that has no process, perhaps because it was queued again.
WAITING = {
    *("PENDING", "CONFIGURING", "POWER_UP_NODE", "EXPEDITING", "REQUEUED", "REQUEUE_HOLD"),
    *("REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
}
# Errors about a job that has ended, or was queued again, since the queue was read.
_TOO_LATE = ("already finished", "already completing", "invalid job id", "pending execution")
# The comment comes last because it is a path, which may contain anything.
_QUEUE = "%A|%T|%r|%N|%k"
_REMEDIES = {  # {text in SLURM's message: remedy}; the first match counts
    "submit limit": "you have the maximum number of jobs: repeat the command later for the rest",
    "generic resource": "slurm.gpus=0 asks for none, `sinfo -o '%P %G'` lists the available ones",
    "node configuration": "no node has so much: see slurm.nodes, slurm.gpus, slurm.cpus and "
    "slurm.memory, and `sinfo -o '%P %D %c %m %G'` for what nodes have",
    "partition": "slurm.partition=NAME, `sinfo -s` lists them",
    "time limit": "slurm.minutes=N",
    "account": "slurm.account=NAME",
    "qos": "slurm.options=[--qos=NAME]",
    "contact": "the cluster's controller does not answer, `scontrol ping` says more",
}


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue, where it stays for some minutes after its end."""

    number: str
    state: str
    reason: str
    nodes: str
    comment: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING

    @property
    def is_ending(self) -> bool:
        """Whether its processes are ending, after which it may be queued again."""
        return self.state == "COMPLETING"


def submit(script: str, after: Sequence[str] = ()) -> str:
    """Submit a batch script; returns the number of its job.

    Args:
        after: Numbers of jobs that must succeed before it starts. If one fails, SLURM cancels this
            one as well.

    Raises:
        UserError: SLURM refuses it, or does not answer.
    """
    command = ["sbatch", "--parsable"]
    if after:
        command += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    # The sbatch of a site may print more before it.
    last_line = _run(command, script).strip().splitlines()[-1:]
    number = "".join(last_line).strip().partition(";")[0]
    if not number.isdecimal():
        raise UserError(f"sbatch printed {number!r} instead of a job number: see `squeue --me`")
    return number


def refusal(script: str, partition: str | None, minutes: int) -> str | None:
    """Why the cluster would never start a job with this script; None if it would.

    sbatch itself accepts a time limit above the partition's, but such a job waits forever.
    """
    try:
        _run(["sbatch", "--test-only"], script)
        listing = _run(["sinfo", "--noheader", "--format=%P|%l"])
    except UserError as error:
        return str(error)
    limits = dict(line.split("|") for line in listing.split() if "|" in line)
    asked = None if partition is None else set(partition.split(","))
    chosen = {
        name.rstrip("*"): _minutes(limit)
        for name, limit in limits.items()
        if (name.endswith("*") if asked is None else name.rstrip("*") in asked)
    }
    if chosen and all(limit is not None and limit < minutes for limit in chosen.values()):
        longest = max(limit for limit in chosen.values() if limit is not None)
        return (
            f"{minutes} minutes are more than the {longest:.0f} that the partition "
            f"{', '.join(chosen)} allows, so no job would ever start: slurm.minutes={longest:.0f} "
            "(jobs out of time are queued again and go on), or another slurm.partition"
        )
    return None


def jobs_named(name: str) -> list[QueuedJob]:
    """The jobs with this name in the queue, whoever submitted them; recently ended ones as well."""
    listing = _run(["squeue", "--noheader", "--states=all", f"--name={name}", f"--format={_QUEUE}"])
    parts = [line.split("|", 4) for line in listing.splitlines() if line.count("|") >= 4]
    return [QueuedJob(*job) for job in parts if job[0].isdecimal()]


def job_states(name: str) -> dict[str, tuple[str, str]]:
    """{number, or NUMBER_TASK in an array: (state, reason)} of the jobs with this name.

    Ended jobs are included as long as the queue lists them.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--name={name}"]
    lines = _run([*command, "--format=%i|%T|%r"]).splitlines()
    parts = (line.split("|", 2) for line in lines if line.count("|") >= 2)
    return {number: (state, reason) for number, state, reason in parts}


def final_states(numbers: Sequence[str]) -> dict[str, str] | None:
    """{job: its last state} from the accounting; None if the cluster keeps none."""
    if not numbers:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    try:
        listing = _run([*command, f"--jobs={','.join(numbers)}"])
    except UserError:
        return None
    pairs = (line.split("|")[:2] for line in listing.splitlines() if "|" in line)
    # A state may have several words: CANCELLED by 1000.
    return {number: state.split()[0] for number, state in pairs if state.strip()}


def cancel(numbers: Sequence[str]) -> None:
    """Remove jobs from the queue; running ones are terminated.

    Raises:
        UserError: SLURM refuses it for one of them; the others are removed.
    """
    if numbers:
        _run(["scancel", *numbers], ignored=_TOO_LATE)


def request_stop(numbers: Sequence[str]) -> None:
    """Ask running jobs to stop when they are ready, by SIGTERM to their steps.

    Raises:
        UserError: SLURM refuses it for one of them; the others were asked.
    """
    refusals = []
    for command in (
        # Otherwise a job whose time runs out at this moment would be queued again.
        ["scontrol", "update", f"JobId={','.join(numbers)}", "Requeue=0"],
        ["scancel", "--signal=TERM", *numbers],
    ):
        try:
            if numbers:
                _run(command, ignored=_TOO_LATE)
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _run(command: Sequence[str], script: str = "", ignored: Sequence[str] = ()) -> str:
    """The standard output of a command whose standard input is `script`.

    Args:
        ignored: Error lines that contain one of these texts are ignored.
    """
    try:
        done = subprocess.run(
            command,
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # the comment of somebody's job may be anything
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{command[0]}, a command of SLURM, is not on this machine: type this on the login "
            "node of the cluster, where jobs are submitted"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} does not answer: {_REMEDIES['contact']}") from error
    if done.returncode:
        text = done.stderr.strip() or done.stdout.strip() or "no reason given"
        lines = [
            line for line in text.splitlines() if not any(text in line.lower() for text in ignored)
        ]
        if lines:
            raise refusal_error(command[0], lines)
    return done.stdout


def refusal_error(command: str, lines: Sequence[str]) -> UserError:
    """The error for the messages of a SLURM command: the last line, and the remedy if known."""
    message = lines[-1].removeprefix(f"{command}: ").removeprefix("error: ")
    text = " ".join(lines).lower()
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in text), None)
    return UserError(f"{command}: {message}" + (f": {remedy}" if remedy else ""))


def _minutes(limit: str) -> float | None:
    """Minutes of a limit in sinfo's notation, [[days-]hours:]minutes:seconds; None: no limit."""
    days, _, clock = limit.rpartition("-")
    with suppress(ValueError):
        parts = [int(part) for part in clock.split(":")]
        seconds = 0
        for part in parts:
            seconds = 60 * seconds + part
        return seconds / 60 + 24 * 60 * int(days or 0)
    return None
