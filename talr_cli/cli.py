"""The command line: runs the subcommand and prints errors as one line.

Imports nothing heavy, so that `talr --help` is instant.
"""

import errno
import importlib
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from talr_cli import __version__, progress, streams
from talr_cli.errors import TRACEBACK, UserError, attached_run, did_you_mean, failure_of
from talr_cli.interruption import handled_by, interrupt
from talr_cli.printable import command_line, printable, printable_lines

COMMANDS = {
    "train": "train one run, evaluate it, write its run directory",
    "sweep": "train or resume the runs of a grid, report",
    "search": "search for the best values, within a bound on the general loss",
    "eval": "score a checkpoint, an adapter, a hub id or a run directory",
    "compare": "whether two runs differ by more than noise, and on which items",
    "analyze": "which tokens of the training rows a checkpoint finds hard",
    "report": "tables, pictures and an HTML page of a study",
    "recommend": "which run of a study to ship, and how sure that is",
    "export": "a run's model as a plain checkpoint with a model card",
    "list": "the runs of each study, their states, scores and sizes",
    "show": "a run: how it was made, its scores, some answers, its files",
    "clean": "delete files that are not needed; --dry-run shows them",
    "fetch": "download what runs with these arguments need",
    "status": "the states of the runs of a detached sweep",
    "logs": "the output of a run of a sweep",
    "stop": "stop a detached sweep: its waiting and its running jobs",
    "doctor": "this machine, and what would stop an experiment on it",
    "completion": "the script for completion in bash, zsh or fish",
}

HELP = f"""talr {__version__}: fine-tune on a domain, measure what it cost, ship the best of it.

Usage: talr COMMAND [key=value ...] [--config-dir DIR] [-v]

Commands:
{chr(10).join(f"  {name:12}{text}" for name, text in COMMANDS.items())}

Examples:
  talr train method=talr lr=1e-6
  talr eval ckpt=PATH_OR_HUB_ID
  talr compare RUN_A RUN_B
  talr report study=NAME

`talr COMMAND --help` lists every choice; `talr COMMAND --cfg job` prints the
resolved config. -v shows where in the code an error comes from. Exit code:
0 done, 1 an error of the program or an unfinished run of a sweep,
2 an error that you can correct, 75 in use, 130 interrupted.
"""

# Commands whose results matter more than their output: a failure to print is not an error.
_PRODUCING = ("train", "sweep", "search", "eval", "analyze", "export", "fetch")
_RESUMABLE = ("train", "sweep", "search", "eval")  # if repeated, they resume
_INFO_FLAGS = {"-h", "--help", "-c", "--cfg", "-i", "--info", "--dry-run"}
_BROKEN_PIPE = 141  # the exit code of a program that SIGPIPE has ended


def main() -> int:
    """Run the command line; returns the exit code (2 for mistakes that the user can correct)."""
    streams.make_lenient()
    progress.set_up_logging()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # else libraries' bars print a line per update
    typed = sys.argv[1:]  # Hydra replaces sys.argv
    # Behind it is only the interpreter's own end, where an exception would be a traceback.
    with handled_by(interrupt, (signal.SIGTERM, signal.SIGHUP)):
        try:
            return _exit_code(typed)
        except KeyboardInterrupt:  # perhaps while an error was printed
            if os.environ.get("RANK", "0") == "0":
                print(f"talr: interrupted{_resume_hint(typed)}", file=sys.stderr)
            return 130


def _exit_code(typed: list[str]) -> int:
    """Run the subcommand; prints errors, but for KeyboardInterrupt."""
    arguments = [one for one in typed if one != "-v"]
    verbose = "-v" in typed
    try:
        code = _dispatch(arguments)
    except UserError as error:
        if verbose:
            print(_traceback(error), file=sys.stderr)
        _print_error(str(error))
        return error.exit_code
    except Exception as error:  # a bug of ours or of a library
        where = "above"
        if verbose or (file := _save_traceback(error)) is None:
            print(_traceback(error), file=sys.stderr)
        else:
            where = f"in {file}, or shown with -v"
        _print_error(f"{failure_of(error)} (where it comes from: {where})")
        return 1
    failure = streams.failure_of_output()
    if failure is None or code or (arguments[:1] and _produces_results(arguments)):
        return code
    if failure.errno == errno.EPIPE:
        return _BROKEN_PIPE
    _print_error(f"cannot write to the standard output: {failure.strerror}")
    return 2


def _resume_hint(typed: list[str]) -> str:
    """The part of the message after Ctrl-C that says how to go on."""
    if not typed or typed[0] not in _RESUMABLE or not _produces_results(typed):
        return ""
    return f"; to go on: {printable(command_line(['talr', *typed]))}"


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    command, *arguments = arguments
    if command == "--version":
        print(f"talr {__version__}")
        return 0
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder has been deleted: cd to another one") from None
    if command not in COMMANDS:
        guess = did_you_mean(command, COMMANDS)
        raise UserError(f"unknown command {command!r}{guess}; see `talr --help`")
    return _run(command, arguments)


def _traceback(error: Exception) -> str:
    return printable_lines("".join(traceback.format_exception(error)))


def _print_error(text: str) -> None:
    rank = os.environ.get("RANK", "0")
    text = printable(text)  # it may contain names from files
    print(f"talr: {f'rank {rank}: ' * (rank != '0')}{text}", file=sys.stderr)


def _save_traceback(error: Exception) -> Path | None:
    """Write the traceback to a file, in the run's folder if possible; None if that fails."""
    text = _traceback(error)
    with suppress(OSError):
        if (run := attached_run(error)) is not None:
            file = run / TRACEBACK
            file.unlink(missing_ok=True)  # it may be a link to another file
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
            return file
    with suppress(OSError):
        number, name = tempfile.mkstemp(".txt", "talr-")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as temporary:
            temporary.write(text)
        return Path(name)
    return None


def _produces_results(arguments: list[str]) -> bool:
    return arguments[0] in _PRODUCING and not _INFO_FLAGS & set(arguments)


def _run(command: str, arguments: list[str]) -> int:
    if command == "train" and {"-m", "--multirun"} & set(arguments):
        command = "sweep"
    module = f"talr_cli.commands.{command}"
    if not _produces_results([command, *arguments]):
        return importlib.import_module(module).main(arguments) or 0
    with progress.work("starting"):  # importing torch and others takes seconds
        imported = importlib.import_module(module)
    return imported.main(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
