"""The exceptions that are printed to the user as a single line, and the one for diverged runs."""

import difflib
import shlex
import sysconfig
import traceback
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

TRACEBACK = "traceback.txt"  # the file in a run's folder about the exception that ended it
_MAX_CHARS = 300  # the most characters of an exception that are shown
_OURS = (f"{Path(__file__).parent}/", f"{sysconfig.get_path('stdlib')}/")
_INSTALLED = {"site-packages", "dist-packages"}
IN_USE = 75  # exit code (EX_TEMPFAIL of sysexits.h)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean ...?)` with the known name that is most like this one; "" if none is."""
    near = difflib.get_close_matches(name, [*known], n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


class UserError(Exception):
    """Something that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints the message as one line, without traceback, and exits with its code.
    """

    exit_code = 2


class UnwritableError(UserError):
    """The system does not let a file be written: what was to write it is as sound as before."""


class InUseError(UserError):
    """Another process is making this run; a sweep waits for it."""

    exit_code = IN_USE


class DivergedError(Exception):
    """The training has diverged: a loss, gradient or weight is not finite or much too large."""


def in_checkout() -> bool:
    """Whether talr runs from a checkout, which has a Makefile, and not from an installed wheel."""
    return (Path(__file__).parents[1] / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """The command that installs one of talr's extras.

    Outside of a checkout it names the extra's packages, as talr is not on a package index.
    """
    if in_checkout():
        return f"pip install -e '.[{extra}]'"
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in metadata.requires("talr") or ()]
    packages = [
        shlex.quote(f"{one.name}{one.specifier}")
        for one in requirements
        if one.marker and one.marker.evaluate({"extra": extra})
    ]
    return f"pip install {' '.join(packages)}"


def reason_of(error: BaseException, max_chars: int | None = None) -> str:
    """An exception's message as one line of at most `most` characters; its class if it has none."""
    return " ".join(str(error).split())[:max_chars] or type(error).__name__


def kind_and_reason(error: BaseException) -> str:
    """`ValueError: its message` in one line."""
    line = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]} ..."


def failure_of(error: BaseException) -> str:
    """An exception of the user's code in one line: `KIND: message at FILE:LINE`."""
    return kind_and_reason(error) + location_in_user_code(error)


def location_in_user_code(error: BaseException) -> str:
    """` at FILE:LINE`, the innermost line of the user's own code; empty if there is none."""
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


def attach_run(error: Exception, folder: Path) -> None:
    """Note on an exception which run's folder its traceback should be written to."""
    vars(error)["run"] = folder


def attached_run(error: Exception) -> Path | None:
    """The folder that `attach_run` has noted, if any."""
    folder = vars(error).get("run")
    return folder if isinstance(folder, Path) else None
