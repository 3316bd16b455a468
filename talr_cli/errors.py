"""The exceptions that are printed to the user as a single line, and the one for diverged runs."""

import shlex
from importlib import metadata
from pathlib import Path

TRACEBACK = "traceback.txt"  # the file in a run's folder about the exception that ended it
IN_USE = 75  # exit code (EX_TEMPFAIL of sysexits.h)


class UserError(Exception):
    """Something that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints the message as one line, without traceback, and exits with its code.
    """

    exit_code = 2


class InUseError(UserError):
    """Another process is making this run; a sweep waits for it."""

    exit_code = IN_USE


class DivergedError(Exception):
    """The training has diverged: a loss, gradient or weight is not finite or much too large."""


def in_checkout() -> bool:
    """Whether talr runs from a checkout, which has a Makefile, and not from where pip put it."""
    return (Path(__file__).parents[1] / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """The command that installs the packages of one of talr's extras.

    In a checkout it names the extra, elsewhere its packages, as talr is not on a package index.
    """
    if in_checkout():
        return f"pip install -e '.[{extra}]'"
    from packaging.requirements import Requirement

    named = [Requirement(one) for one in metadata.requires("talr") or ()]
    wanted = [
        shlex.quote(f"{one.name}{one.specifier}")
        for one in named
        if one.marker and one.marker.evaluate({"extra": extra})
    ]
    return f"pip install {' '.join(wanted)}"


def reason_of(error: BaseException, most: int | None = None) -> str:
    """An exception's message as one line of at most `most` characters; its class if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def attach_run(error: Exception, folder: Path) -> None:
    """Note on an exception which run's folder its traceback should be written to."""
    vars(error)["run"] = folder


def attached_run(error: Exception) -> Path | None:
    """The folder that `attach_run` has noted, if any."""
    folder = vars(error).get("run")
    return folder if isinstance(folder, Path) else None
