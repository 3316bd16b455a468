"""The command line: runs the subcommand and prints errors as one line.

Imports nothing heavy, so that `talr --help` is instant.
"""

from __future__ import annotations

import difflib
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
from talr_cli.errors import TRACEBACK, UserError, attached_run, failure_of
from talr_cli.interruption import interrupt
from talr_cli.printable import command_line, printable, printable_lines

COMMANDS = {
    "train": "train one run, evaluate it, write its run directory",
    "sweep": "train the runs of a grid, go on with them, report",
    "search": "the best values of a space, within a bound on what is lost",
    "eval": "score a checkpoint, an adapter, a hub id or a run directory",
    "compare": "whether two runs differ by more than noise, and on which items",
    "analyze": "which tokens of the training rows a checkpoint finds hard",
    "report": "tables, pictures and an HTML page of a study",
    "recommend": "the run of a study to ship, and how sure that is",
    "export": "a run's model as a plain checkpoint with a model card",
    "list": "the runs of each study, their states, scores and sizes",
    "show": "a run: how it was made, its scores, some answers, its files",
    "clean": "delete what nothing needs; --dry-run shows it",
    "fetch": "what runs with these arguments read, where a network is",
    "status": "where the runs of a detached sweep stand",
    "logs": "what a run of a sweep prints",
    "stop": "end a detached sweep: its jobs that wait, and those that run",
    "doctor": "this machine, and what would stop an experiment on it",
    "completion": "the script that completes words in bash, zsh or fish",
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
0 done, 1 a fault of the program or a run of a sweep that is not done,
2 something that you can put right, 75 in use, 130 interrupted.
"""

# Commands whose result matters more than what they print: a failure to print is not an error.
_MAKING = ("train", "sweep", "search", "eval", "analyze", "export", "fetch")
_GOING_ON = ("train", "sweep", "search", "eval")  # repeated, they go on where they were
_ASKING = {"-h", "--help", "-c", "--cfg", "-i", "--info", "--dry-run"}
_BROKEN_PIPE = 141  # the exit code of a program that SIGPIPE has ended


def main() -> int:
    """Run the command line; returns the exit code (2 for mistakes that the user can correct)."""
    streams.make_lenient()
    progress.log_above_the_line()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # else libraries' bars print a line per update
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, interrupt)
    typed = sys.argv[1:]  # Hydra is given another sys.argv
    arguments = [one for one in typed if one != "-v"]
    verbose = "-v" in typed
    try:
        code = _dispatch(arguments)
    except UserError as error:
        if verbose:
            print(_traceback(error), file=sys.stderr)
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"talr: interrupted{_how_to_go_on(typed)}", file=sys.stderr)
        return 130
    except Exception as error:  # a fault of ours, or of a library
        where = "above"
        if verbose or (file := _save_traceback(error)) is None:
            print(_traceback(error), file=sys.stderr)
        else:
            where = f"in {file}, or shown with -v"
        _print_error(f"{failure_of(error)} (where it comes from: {where})")
        return 1
    failure = streams.failure_of_output()
    if failure is None or code or (arguments[:1] and _is_making(arguments)):
        return code
    if failure.errno == errno.EPIPE:
        return _BROKEN_PIPE
    _print_error(f"cannot write to the standard output: {failure.strerror}")
    return 2


def _how_to_go_on(typed: list[str]) -> str:
    """The part of the message after Ctrl-C that says what to type."""
    if not typed or typed[0] not in _GOING_ON or not _is_making(typed):
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
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown command {command!r}{guess}; see `talr --help`")
    return _run(command, arguments)


def _traceback(error: Exception) -> str:
    return printable_lines("".join(traceback.format_exception(error)))


def _print_error(text: str) -> None:
    rank = os.environ.get("RANK", "0")
    said = printable(text)  # it may hold names from files
    print(f"talr: {f'rank {rank}: ' * (rank != '0')}{said}", file=sys.stderr)


def _save_traceback(error: Exception) -> Path | None:
    """Write the traceback to a file, in the run's folder if possible; None if that fails."""
    text = _traceback(error)
    with suppress(OSError):
        if (run := attached_run(error)) is not None:
            (run / TRACEBACK).write_text(text, encoding="utf-8", errors="backslashreplace")
            return run / TRACEBACK
    with suppress(OSError):
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="talr-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(text)
        return Path(file.name)
    return None


def _is_making(arguments: list[str]) -> bool:
    return arguments[0] in _MAKING and not _ASKING & set(arguments)


def _run(command: str, arguments: list[str]) -> int:
    if command == "train" and {"-m", "--multirun"} & set(arguments):
        command = "sweep"
    module = f"talr_cli.commands.{command}"
    if not _is_making([command, *arguments]):
        return importlib.import_module(module).main(arguments) or 0
    with progress.work("starting"):  # importing torch and others takes seconds
        found = importlib.import_module(module)
    return found.main(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
