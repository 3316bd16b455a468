"""Calls SLURM's commands. Knows jobs, but nothing of runs.

What a command refuses becomes a UserError of one line, with the remedy where that is known.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from talr_cli.errors import UserError

PATIENCE = 90.0  # seconds for an answer; SLURM itself tries to reach its controller for a minute
OVER = {  # states of a job that has ended
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"),
    *("BOOT_FAIL", "DEADLINE", "REVOKED"),
}
# States of a job that is in the queue without a process, some of them after it ran before.
WAITS = {
    *(
        "PENDING",
        "CONFIGURING",
        "POWER_UP_NODE",
        "EXPEDITING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "RESV_DEL_HOLD",
    ),
    "SPECIAL_EXIT",
}
# Refusals for a job that ended, or was queued again, since the queue was read.
_TOO_LATE = ("already finished", "already completing", "invalid job id", "pending execution")
# The comment comes last: it is a path, which may hold anything.
_QUEUE = "%A|%T|%r|%N|%k"
_REMEDIES = {  # by what SLURM's line has in it, the first that fits
    "submit limit": "you have as many jobs as you may: the same command again submits the rest",
    "generic resource": "slurm.gpus=0 asks for none, `sinfo -o '%P %G'` shows which there are",
    "node configuration": "no node has so much: see slurm.nodes, slurm.gpus, slurm.cpus and "
    "slurm.memory, and `sinfo -o '%P %D %c %m %G'` for what there is",
    "partition": "slurm.partition=NAME, `sinfo -s` lists them",
    "time limit": "slurm.minutes=N",
    "account": "slurm.account=NAME",
    "qos": "slurm.options=[--qos=NAME]",
    "contact": "the cluster's controller does not answer, `scontrol ping` says more",
}


@dataclass(frozen=True)
class QueuedJob:
    """A job of the queue; a job stays there for some minutes after its end."""

    number: str
    state: str
    reason: str
    nodes: str
    comment: str

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def waits(self) -> bool:
        return self.state in WAITS

    @property
    def ends(self) -> bool:
        """Whether its processes are ending; it may be queued again."""
        return self.state == "COMPLETING"


def submit(script: str, after: Sequence[str] = ()) -> str:
    """Submit a batch script; the number of its job.

    Args:
        after: Numbers of jobs that must succeed before it starts. If one fails, SLURM cancels this
            one too.

    Raises:
        UserError: SLURM refuses it, or does not answer.
    """
    command = ["sbatch", "--parsable"]
    if after:
        command += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    # A site's own sbatch may say more before it.
    said = _answer(command, script).strip().splitlines()[-1:]
    number = "".join(said).strip().partition(";")[0]
    if not number.isdecimal():
        raise UserError(f"sbatch gave no number of a job but {number!r}: see `squeue --me`")
    return number


def refusal(script: str, partition: str | None, minutes: int) -> str | None:
    """Why the cluster would never start a job of this script; None if it would.

    sbatch itself accepts a time limit above the partition's; such a job waits for ever.
    """
    try:
        _answer(["sbatch", "--test-only"], script)
        listing = _answer(["sinfo", "--noheader", "--format=%P|%l"])
    except UserError as error:
        return str(error)
    limits = dict(line.split("|") for line in listing.split() if "|" in line)
    asked = None if partition is None else set(partition.split(","))
    own = {
        name.rstrip("*"): _minutes(limit)
        for name, limit in limits.items()
        if (name.endswith("*") if asked is None else name.rstrip("*") in asked)
    }
    if own and all(limit is not None and limit < minutes for limit in own.values()):
        longest = max(limit for limit in own.values() if limit is not None)
        return (
            f"{minutes} minutes are more than the {longest:.0f} that the partition "
            f"{', '.join(own)} gives, so that no job would ever start: slurm.minutes={longest:.0f} "
            "(jobs out of time are queued again and go on), or another slurm.partition"
        )
    return None


def jobs_named(name: str) -> list[QueuedJob]:
    """The jobs of that name in the queue, whoever submitted them, and those that ended lately."""
    listing = _answer(
        ["squeue", "--noheader", "--states=all", f"--name={name}", f"--format={_QUEUE}"]
    )
    parts = [line.split("|", 4) for line in listing.splitlines() if line.count("|") >= 4]
    return [QueuedJob(*job) for job in parts if job[0].isdecimal()]


def states_of(name: str) -> dict[str, tuple[str, str]]:
    """{number: (state, reason)} of the jobs of that name; NUMBER_TASK where it is one of an array.

    Those that ended are among them for as long as the queue knows them.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--name={name}"]
    lines = _answer([*command, "--format=%i|%T|%r"]).splitlines()
    parts = (line.split("|", 2) for line in lines if line.count("|") >= 2)
    return {number: (state, reason) for number, state, reason in parts}


def how_they_ended(numbers: Sequence[str]) -> dict[str, str] | None:
    """{job: its last state} from the accounting; None where the cluster keeps none."""
    if not numbers:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    try:
        listing = _answer([*command, f"--jobs={','.join(numbers)}"])
    except UserError:
        return None
    pairs = (line.split("|")[:2] for line in listing.splitlines() if "|" in line)
    # A state may have more words: CANCELLED by 1000.
    return {number: state.split()[0] for number, state in pairs if state.strip()}


def cancel(numbers: Sequence[str]) -> None:
    """Take jobs out of the queue; those that run are told to end, and ended soon after.

    Raises:
        UserError: SLURM refuses it for one of them; the others are out.
    """
    if numbers:
        _answer(["scancel", *numbers], no_matter=_TOO_LATE)


def ask_to_end(numbers: Sequence[str]) -> None:
    """Ask running jobs to end in their own time: SIGTERM to their steps.

    Raises:
        UserError: SLURM refuses it for one of them; the others were told.
    """
    refusals = []
    for command in (
        # A job whose time is over at this moment would otherwise be queued again.
        ["scontrol", "update", f"JobId={','.join(numbers)}", "Requeue=0"],
        ["scancel", "--signal=TERM", *numbers],
    ):
        try:
            if numbers:
                _answer(command, no_matter=_TOO_LATE)
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _answer(command: Sequence[str], script: str = "", no_matter: Sequence[str] = ()) -> str:
    """The standard output of a command that gets `script` on its input.

    Args:
        no_matter: Lines of its errors with one of these words are ignored.
    """
    try:
        done = subprocess.run(
            command,
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a job's comment is anybody's
            timeout=PATIENCE,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{command[0]}, a command of SLURM, is not on this machine: type this where jobs are "
            "submitted, on the cluster's login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} does not answer: {_REMEDIES['contact']}") from error
    if done.returncode:
        text = done.stderr.strip() or done.stdout.strip() or "no reason given"
        lines = [
            line
            for line in text.splitlines()
            if not any(words in line.lower() for words in no_matter)
        ]
        if lines:
            raise refused(command[0], lines)
    return done.stdout


def refused(command: str, lines: Sequence[str]) -> UserError:
    """The error for what a command of SLURM has said: one line, with the remedy if known."""
    said = lines[-1].removeprefix(f"{command}: ").removeprefix("error: ")
    words = " ".join(lines).lower()
    remedy = next((text for word, text in _REMEDIES.items() if word in words), None)
    return UserError(f"{command}: {said}" + (f": {remedy}" if remedy else ""))


def _minutes(limit: str) -> float | None:
    """Minutes of a limit as sinfo writes it, [[days-]hours:]minutes:seconds; None: no limit."""
    days, _, clock = limit.rpartition("-")
    with suppress(ValueError):
        parts = [int(part) for part in clock.split(":")]
        seconds = 0
        for part in parts:
            seconds = 60 * seconds + part
        return seconds / 60 + 24 * 60 * int(days or 0)
    return None
