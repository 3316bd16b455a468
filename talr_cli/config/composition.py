"""From the command line to a typed config, composed by Hydra.

talr adds to Hydra: paths need no quotes, errors are one line, and the result is the command's
dataclass with its parts as objects, whose problems are all reported together. Nothing here imports
torch, so that a config is checked before anything is loaded.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talr_cli import progress
from talr_cli.config import mistakes
from talr_cli.config.commands import COMMANDS, OF_GRIDS, conf_dir
from talr_cli.config.help import groups_of, help_text
from talr_cli.config.options import (
    check_options,
    first_key,
    package_is_found,
    refuse_runs,
    require_folder,
    take_config_dir,
)
from talr_cli.config.quoting import quoted, with_quoted_texts
from talr_cli.config.typed import schema, typed_config
from talr_cli.errors import UserError, reason_of
from talr_cli.report.as_json import check_target
from talr_cli.scorers.user import look_in_current_folder

Config = TypeVar("Config")


@dataclass(frozen=True)
class Composed(Generic[Config]):
    """A command's config, and its sources.

    Attributes:
        overrides: The overrides that the user typed.
        arguments: The arguments with which another process composes the same config.
        values: The config as plain values.
        config_dir: The folder of the user's own groups, or None.
    """

    config: Config
    overrides: tuple[str, ...]
    arguments: tuple[str, ...]
    values: Mapping[str, Any]
    config_dir: Path | None = None


def run(
    command: str,
    task: Callable[[Composed[Any]], Any],
    arguments: Sequence[str],
    positional: Sequence[str] = (),
    hold: Callable[[Sequence[str]], Sequence[str]] = lambda overrides: (),
) -> Any:
    """Compose conf/<command>.yaml with the arguments and pass the config to `task`.

    Returns what `task` returns; None after an option such as --help.

    Args:
        positional: The keys of arguments that are typed without a key, in order.
        hold: Selects the overrides that are kept from Hydra, as only `task` knows their keys.

    Raises:
        UserError: An option, group, name or value is wrong.
    """
    if show_help(command, arguments):
        return None
    if {"-sc", "--shell-completion"} & set(arguments):
        raise UserError("`talr completion bash` prints the script for bash; or zsh, fish")
    _register_schemas()
    look_in_current_folder()  # for the classes that a user's own config names
    options, overrides, package = _checked(command, arguments, positional)
    config_dir, held = take_config_dir(options)[0], tuple(hold(overrides))
    require_folder(config_dir)
    own = tuple(one for one in overrides if one not in held)
    # Otherwise Hydra prints its errors itself and exits with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"talr {command}", *options, "--", *own]
    failures: list[Exception] = []
    returned: list[Any] = []

    # Exceptions bypass Hydra, which would print a line of its own for them.
    def guarded(config: DictConfig) -> None:
        try:
            composed = _composed(command, config, own, held, config_dir)
            if getattr(composed.config, "quiet", False):
                progress.be_quiet()
            if (target := getattr(composed.config, "json", None)) is not None:
                check_target(target)
            returned.append(task(composed))
        except Exception as error:  # raised again below
            failures.append(error)

    decorate = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    with _as_user_errors(command), package_is_found(package):
        mistakes.check_choices(_parsed(own), config_dir)
        decorate(guarded)()
        if failures:
            raise failures[0]
    return returned[0] if returned else None


def show_help(command: str, arguments: Sequence[str]) -> bool:
    """Print a command's help if the arguments ask for it; returns whether they do."""
    if not {"-h", "--help"} & set(arguments):
        return False
    config_dir, rest = take_config_dir(arguments)
    overrides = [one for one in rest if not one.startswith("-") and "=" in one]
    with composing(command, config_dir) as also:
        config = compose_untyped(command, overrides, also, config_dir)
        values: Any = OmegaConf.to_container(config)
        print(help_text(command, COMMANDS[command], values, config_dir), end="")
    return True


def load(command: str, overrides: Sequence[str]) -> Any:
    """The typed config of a command, which is not run."""
    with composing(command, None):
        return typed_config(command, compose_untyped(command, overrides), overrides)


@dataclass(frozen=True)
class GridArguments(Generic[Config]):
    """The arguments of a command that works on the runs of a grid.

    Attributes:
        options: The config of the command itself.
        own: The overrides of the command itself.
        of_runs: The overrides of the runs.
        config_dir: As in `Composed`.
    """

    options: Config
    own: tuple[str, ...]
    of_runs: tuple[str, ...]
    config_dir: Path | None


def split_grid_arguments(
    command: str, kind: type[Config], arguments: Sequence[str]
) -> GridArguments[Config] | None:
    """Separate the overrides of the command itself, the fields of `kind`, from those of the runs.

    Returns None after an option such as --help has been handled.
    """
    config_dir, overrides = take_config_dir(arguments)
    keys = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    own = tuple(one for one in overrides if first_key(one) in keys)
    of_runs = tuple(one for one in overrides if one not in own)
    if any(one.startswith("-") for one in overrides):
        if not show_help(command, [one for one in arguments if one.startswith("-") or one in own]):
            run(command, lambda composed: None, arguments, hold=partial(refuse_runs, command, keys))
        return None
    _require_keys(command, overrides)
    mistakes.warn_of_repeated(command, overrides)
    with composing(command, config_dir) as also:
        options = typed_config(command, compose_untyped(command, own, also, config_dir), own)
    return GridArguments(options, own, of_runs, config_dir)


def compose_config(
    command: str,
    overrides: Sequence[str],
    config_dir: Path | None = None,
    hold: Callable[[Sequence[str]], Sequence[str]] = lambda overrides: (),
) -> Composed[Any]:
    """What `run` passes to its task, for callers in Python; raises the same errors."""
    look_in_current_folder()
    for one in overrides:
        if not isinstance(one, str):
            raise UserError(f"{one!r} is not a text of the form key=value")
    _require_keys(command, overrides)
    typed = with_quoted_texts(command, overrides)
    held = tuple(hold(typed))
    own = tuple(one for one in typed if one not in held)
    with composing(command, config_dir) as also:
        config = compose_untyped(command, own, also, config_dir)
        return _composed(command, config, own, held, config_dir, also)


def compose_untyped(
    command: str,
    overrides: Sequence[str],
    also: Sequence[str] = (),
    config_dir: Path | None = None,
) -> DictConfig:
    """A command's config as Hydra composes it. Call it inside `composing`, which yields `also`."""
    mistakes.check_choices(_parsed(overrides), config_dir)
    return compose(command, [*also, *overrides])


def _parsed(overrides: Iterable[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


@contextmanager
def composing(command: str, config_dir: Path | None) -> Iterator[list[str]]:
    """A context for Hydra's compose; yields the overrides that make it search `config_dir` too.

    Raises:
        UserError: An option, group, name or value is wrong.
    """
    _register_schemas()
    require_folder(config_dir)
    also = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    outer = get_gh_backup()  # a running command may compose another config
    GlobalHydra.instance().clear()
    try:
        with (
            _as_user_errors(command),
            initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())),
        ):
            yield also
    finally:
        restore_gh_from_backup(outer)


def _composed(
    command: str,
    config: DictConfig,
    own: tuple[str, ...],
    held: tuple[str, ...],
    config_dir: Path | None,
    also: Sequence[str] = (),
) -> Composed[Any]:
    """What a command's task gets.

    Args:
        own: The overrides that `config` was composed with.
        held: The overrides that were kept from Hydra.
        also: As for `typed_config`.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    made = typed_config(command, config, own, also)
    overrides = (*own, *held)
    added = () if config_dir is None else (f"--config-dir={config_dir}",)
    return Composed(made, overrides, (*added, *overrides), values, config_dir)


@cache  # Hydra's store is global, and filling it takes a tenth of the time of a composition
def _register_schemas() -> None:
    """Register the dataclasses with Hydra, which then checks names and types."""
    store = ConfigStore.instance()
    for command, kind in COMMANDS.items():
        store.store(f"{command}_schema", schema(kind))


@contextmanager
def _as_user_errors(command: str) -> Iterator[None]:
    """Turn errors of Hydra, OmegaConf and YAML into UserErrors."""
    try:
        yield
    except yaml.YAMLError as error:
        raise UserError(f"a file is not YAML: {reason_of(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise UserError(mistakes.explain(error, command, lambda: _known_keys(command))) from error


def _checked(
    command: str, arguments: Sequence[str], positional: Sequence[str]
) -> tuple[list[str], list[str], str | None]:
    """(options, overrides, --package), as Hydra takes options only before overrides."""
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        match = re.search(r"unrecognized arguments: (\S+)", message)
        guess = mistakes.guess_option(match[1], arguments, _known_keys(command)) if match else ""
        raise UserError(f"{message}{guess}; see `talr {command} --help`")

    parser.error = fail  # type: ignore[method-assign]
    found = parser.parse_intermixed_args(list(arguments))
    check_options(found)
    typed = found.overrides
    keys = iter(positional)
    overrides = []
    for at, override in enumerate(typed):
        if not _has_key(override):
            key = next(keys, None)
            if key is None:
                raise _without_key(command, typed, at)
            override = f"{key}={quoted(override)}"
        overrides.append(override)
    mistakes.warn_of_repeated(command, overrides)
    options = [one for one in arguments if one not in (*typed, "--")]
    return options, with_quoted_texts(command, overrides), found.package


def _require_keys(command: str, overrides: Sequence[str]) -> None:
    for at, one in enumerate(overrides):
        if not _has_key(one):
            raise _without_key(command, overrides, at)


def _has_key(override: str) -> bool:
    return "=" in override or override.startswith("~")


def _without_key(command: str, words: Sequence[str], at: int) -> UserError:
    guess = mistakes.guess_key(words, at, _known_keys(command))
    see = f"see `talr {command} --help`"
    return UserError(f"{words[at]!r} is not of the form key=value{guess}; {see}")


def _known_keys(command: str) -> list[str]:
    of_runs = ("train",) * (command in OF_GRIDS)
    with composing(command, None):
        configs = [compose(one) for one in (command, *of_runs)]
    keys = [group for one in (command, *of_runs) for group in groups_of(one)]

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            keys.append(f"{prefix}{key}")
            child = node._get_node(key)
            if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
                walk(child, f"{prefix}{key}.")

    for config in configs:
        walk(config, "")
    return keys
