"""The exceptions that are printed to the user as a single line, and the one that ends a run."""

import shlex
import sysconfig
import traceback
from importlib import metadata
from pathlib import Path

TRACEBACK = "traceback.txt"  # in a run's folder, of the exception that ended it
_LONGEST = 300  # characters of an exception that are shown
_OURS = (f"{Path(__file__).parent}/", f"{sysconfig.get_path('stdlib')}/")
_INSTALLED = {"site-packages", "dist-packages"}
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


def in_checkout() -> bool:
    """Whether talr runs from a checkout, which has a Makefile, and not from where pip put it."""
    return (Path(__file__).parents[1] / "pyproject.toml").is_file()


def install(extra: str) -> str:
    """What is typed to have what only some need: in a checkout the extra, elsewhere its packages.

    talr is on no package index: an extra of it can be named where its files are, and only there.
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
    """What an exception says in one line of at most so many characters, or else its name."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def kind_and_reason(error: BaseException) -> str:
    """`ValueError: what it says` in one line."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."


def failure_of(error: BaseException) -> str:
    """What code of the user's raised, in one line: `KIND: message at FILE:LINE`."""
    return kind_and_reason(error) + place_of(error)


def place_of(error: BaseException) -> str:
    """` at FILE:LINE`, the innermost line of the user's own code; empty where there is none.

    That of an installed package counts where it was called by talr itself.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *_OURS))
    ]
    own = [frame for frame in frames if not _INSTALLED & set(Path(frame.filename).parts)]
    if not own:
        return ""
    return f" at {own[-1].filename}:{own[-1].lineno}"


def of_run(error: Exception, folder: Path) -> None:
    """Let an exception know in which run it ended: its traceback belongs there."""
    vars(error)["run"] = folder


def run_of(error: Exception) -> Path | None:
    """The folder of the run that it ended, if it was in one."""
    folder = vars(error).get("run")
    return folder if isinstance(folder, Path) else None
