"""The options of the command line, of which Hydra defines most."""

import argparse
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.printable import command_line


def check_options(options: argparse.Namespace) -> None:
    """Refuse options of Hydra that do nothing here, or that it answers with an error of its own."""
    chosen = [one for one in ("run", "multirun", "cfg", "info") if getattr(options, one)]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} exclude each other: leave one out")
    if options.run:
        raise UserError("--run is what a command does anyway: leave it out")
    if options.multirun or "hydra.mode=MULTIRUN" in options.overrides:
        raise UserError("only `talr train` has --multirun: type a command for each of the values")
    if options.experimental_rerun:
        raise UserError("--experimental-rerun: to go on with a run, repeat its command")
    for name in ("resolve", "package"):
        if getattr(options, name) and not options.cfg:
            raise UserError(f"--{name} belongs to --cfg job: type both")
    if options.config_path or options.config_name:
        raise UserError("--config-path and --config-name: your own groups go into --config-dir DIR")


def take_config_dir(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of --config-dir, and the other arguments."""
    rest, folder = [], None
    remaining = iter(arguments)
    for one in remaining:
        name, _, value = one.partition("=")
        if name in ("--config-dir", "-cd"):
            given = value or next(remaining, None)
            if given is None:
                raise UserError("--config-dir needs a folder")
            folder = Path(given)
        else:
            rest.append(one)
    return folder, rest


def require_folder(config_dir: Path | None) -> None:
    """Raise a UserError if the folder of --config-dir is none, which Hydra only warns of."""
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir} is not a directory")


def first_key(override: str) -> str:
    """`dataset` of `dataset.train=FILE`."""
    return override.partition("=")[0].partition(".")[0]


def refuse_runs(command: str, keys: Collection[str], overrides: Sequence[str]) -> Sequence[str]:
    """Raise a UserError if an override is none of the command's own keys, but of its runs."""
    for one in overrides:
        if first_key(one) not in keys:
            of_run = command_line(["talr", "train", one, "--cfg", "job"])
            raise UserError(
                f"{one} is a value of the runs: with options, `talr {command}` takes only its own; "
                f"`{of_run}` prints the config of a run"
            )
    return ()


@contextmanager
def package_is_found(package: str | None) -> Iterator[None]:
    """Raise a UserError if `--cfg job --package KEY` names no key: Hydra prints it and exits."""
    if package is None:
        yield
        return
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as left:
        raise UserError(f"--package {package}: {printed.getvalue().strip()}") from left
