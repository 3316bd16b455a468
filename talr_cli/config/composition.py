"""Runs a command under Hydra: composition, --help, --cfg, completion and multirun are Hydra's own.

What it adds: Hydra's errors become one line that names the mistake and the nearest valid name.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talr_cli.config.commands import conf_dir, register_schemas
from talr_cli.errors import UserError
from talr_cli.scorers.user import look_in_current_folder


def run(
    command: str,
    task: Callable[[DictConfig], Any],
    arguments: Sequence[str],
    positional: Sequence[str] = (),
) -> None:
    """Compose conf/<command>.yaml with the arguments and hand the config to `task`.

    Args:
        positional: The config values that arguments without a key are for, in their order.

    Raises:
        UserError: An option, group, name or value is wrong.
    """
    register_schemas()
    look_in_current_folder()  # for the classes that a user's own config names
    arguments = _checked(command, arguments, positional)
    # Without this Hydra prints its errors itself and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"talr {command}", *arguments]
    failures: list[UserError] = []

    # Hydra announces every exception of a job in a line of its own: this one goes around it.
    def guarded(config: DictConfig) -> Any:
        try:
            return task(config)
        except UserError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # a sweeper goes on to the next
            failures.append(error)
        except InstantiationException as error:
            if not isinstance(error.__cause__, UserError):
                raise
            failures.append(error.__cause__)

    decorate = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    try:
        decorate(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, command)) from error
    if failures:
        raise failures[0]


def command_line() -> list[str]:
    """The arguments that compose the config of the job at hand again, in a process of its own."""
    hydra_config = HydraConfig.get()
    added = [
        f"--config-dir={source.path}"
        for source in hydra_config.runtime.config_sources
        if source.provider == "command-line"
    ]
    return [*added, *hydra_config.overrides.task]


def load(command: str, overrides: Sequence[str]) -> DictConfig:
    """The config of a command without running it."""
    with composing(command, None):
        return compose(command, overrides=list(overrides))


@contextmanager
def composing(command: str, config_dir: Path | None) -> Iterator[list[str]]:
    """Inside, Hydra's compose works; gives the overrides with which it finds `config_dir` too.

    Raises:
        UserError: An option, group, name or value is wrong.
    """
    register_schemas()
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir} is not a directory")
    also = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            yield also
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, command)) from error


def _checked(command: str, arguments: Sequence[str], positional: Sequence[str] = ()) -> list[str]:
    """The arguments with the options first: Hydra takes none between or after overrides."""
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def fail(message: str) -> NoReturn:
        match = re.search(r"unrecognized arguments: (\S+)", message)
        guess = _nearest(match[1], flags) if match else ""
        raise UserError(f"{message}{guess}; see `talr {command} --help`")

    parser.error = fail  # type: ignore[method-assign]
    namespace: argparse.Namespace = parser.parse_intermixed_args(list(arguments))
    keys = iter(positional)
    overrides = []
    for override in namespace.overrides:
        if "=" not in override and not override.startswith("~"):
            key = next(keys, None)
            if key is None:
                raise UserError(
                    f"{override!r} is not of the form key=value; see `talr {command} --help`"
                )
            override = f"{key}={_quoted(override)}"
        overrides.append(override)
    options = [one for one in arguments if one not in namespace.overrides]
    return [*options, *overrides]


def _quoted(value: str) -> str:
    """The value as text in Hydra's grammar, whatever characters it has."""
    # In quotes a backslash is one, unless a quote follows.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def _one_line(error: Exception, command: str) -> str:
    see = f"see `talr {command} --help`"
    text = " ".join(str(error).split())
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        guess, choices = _nearest(name, error.options), ", ".join(error.options)
        return f"{group}={name} does not exist{guess}; the choices are {choices}"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        return f"{key} is not a config value{_nearest(key, _known_keys(command))}; {see}"
    if match := re.search(r"Key '([^']+)' (?:is )?not in '?\w+'?.*?full_key: (\S+)", text):
        return f"{match[2]} is not a config value{_nearest(match[2], _known_keys(command))}; {see}"
    if isinstance(cause, OmegaConfBaseException):
        text = " ".join(str(cause).split())
    # omegaconf: what is wrong, then full_key and object_type.
    if match := re.search(r"^(.*?) full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}; {see}"
    return f"{text.rstrip('.')}; {see}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _known_keys(command: str) -> list[str]:
    config = load(command, [])
    keys: list[str] = [group.name for group in conf_dir().iterdir() if group.is_dir()]

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            keys.append(f"{prefix}{key}")
            child = node._get_node(key)
            if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
                walk(child, f"{prefix}{key}.")

    walk(config, "")
    return keys
