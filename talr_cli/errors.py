"""The exceptions that are printed to the user as a single line, and the one that ends a run."""

from pathlib import Path

TRACEBACK = "traceback.txt"  # in a run's folder, of the exception that ended it
IN_USE = 75  # exit code (EX_TEMPFAIL of sysexits.h)


class UserError(Exception):
    """Something the user can put right: what is wrong, where, and what to do.

    The command line prints the message as one line and exits with its code; no traceback.
    """

    exit_code = 2


class InUseError(UserError):
    """Another process makes this run: a sweep waits for it."""

    exit_code = IN_USE


class DivergedError(Exception):
    """Training has left the finite numbers, or what makes sense; recorded as the run's state."""


def of_run(error: Exception, folder: Path) -> None:
    """Let an exception know in which run it ended: its traceback belongs there."""
    vars(error)["run"] = folder


def run_of(error: Exception) -> Path | None:
    """The folder of the run that it ended, if it was in one."""
    folder = vars(error).get("run")
    return folder if isinstance(folder, Path) else None
