"""argv -> subcommand. Imports nothing heavy, so that `talr --help` is instant."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys

from talr_cli import __version__
from talr_cli.errors import UserError
from talr_cli.interruption import interrupt
from talr_cli.printable import printable

COMMANDS = {
    "train": "train one run, evaluate it, write its run directory",
    "sweep": "train the runs of a grid, go on with them, report",
    "eval": "score a checkpoint, an adapter, a hub id or a run directory",
    "compare": "whether two runs differ by more than noise, and on which items",
    "analyze": "which tokens of the training rows a checkpoint finds hard",
    "report": "tables, pictures and an HTML page of a study",
    "recommend": "the run of a study to ship, and how sure that is",
    "export": "a run's model as a plain checkpoint with a model card",
    "list": "the runs of each study, their states, scores and sizes",
    "show": "a run: how it was made, its scores, some answers, its files",
    "clean": "delete what nothing needs; --dry-run shows it",
    "doctor": "this machine, and what would stop an experiment on it",
    "completion": "the script that completes words in bash, zsh or fish",
}

HELP = f"""talr {__version__}: fine-tune on a domain, measure what it cost, ship the best trade-off.

Usage: talr COMMAND [key=value ...] [--config-dir DIR]

Commands:
{chr(10).join(f"  {name:12}{text}" for name, text in COMMANDS.items())}

Examples:
  talr train method=talr lr=1e-6
  talr eval ckpt=PATH_OR_HUB_ID
  talr compare RUN_A RUN_B
  talr report study=NAME

`talr COMMAND --help` lists every choice; `talr COMMAND --cfg job` prints the resolved config.
"""


def main() -> int:
    """Run the command line; returns the exit code (2 for anything the user can put right)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("talr_cli").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries, one line a frame
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, interrupt)
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(f"talr {__version__}")
        return 0
    command = arguments[0]
    try:
        if command not in COMMANDS:
            near = difflib.get_close_matches(command, COMMANDS, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"unknown command {command!r}{guess} See `talr --help`.")
        return _run(command, arguments[1:])
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        said = printable(str(error))  # it may hold names from files
        print(f"talr: {f'rank {rank}: ' * (rank != '0')}{said}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("talr: interrupted", file=sys.stderr)
        return 130


def _run(command: str, arguments: list[str]) -> int:
    is_search = any(one.startswith("hydra/sweeper=") for one in arguments)
    if command == "train" and {"-m", "--multirun"} & set(arguments) and not is_search:
        command = "sweep"
    return importlib.import_module(f"talr_cli.commands.{command}").main(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
