"""Completions of the last word of a command line.

Knows commands, groups, values and their choices; does not know the shells.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from talr_cli.config.commands import COMMANDS
from talr_cli.config.composition import compose_untyped, composing
from talr_cli.config.help import Described, choices_of, describe, groups
from talr_cli.config.options import take_config_dir
from talr_cli.errors import UserError

SHELLS = ("bash", "zsh", "fish")
_FLAGS = ("--help", "--cfg", "--config-dir")
_WITH_DRY_RUN = ("sweep", "clean")
_WITH_RUNS = ("show", "compare")  # take runs without a key


def words(line: str) -> list[str]:
    """The completions of the last word of `line`.

    Those that end with `=`, `.`, `/` or `,` are not complete words yet.
    """
    typed = _split(line)
    word, before = typed[-1], typed[1:-1]
    if not before:
        return _beginning(word, [*COMMANDS, "completion", "--help", "--version"])
    command, *arguments = before
    if command == "completion":
        return _beginning(word, SHELLS)
    if command not in COMMANDS:
        return []
    if arguments and arguments[-1] in ("--config-dir", "-cd"):
        return _paths(word)
    if word.startswith("-"):
        return _beginning(word, [*_FLAGS, *(["--dry-run"] if command in _WITH_DRY_RUN else [])])
    config_dir, arguments = _split_config_dir(arguments)
    if "=" in word:
        return _values(command, word, arguments, config_dir)
    found = _keys(command, word, arguments, config_dir)
    if command in _WITH_RUNS:
        found += _beginning(word, _runs(arguments))
    return found


def _split(line: str) -> list[str]:
    """The words of a line as the shell splits it; the last one is incomplete and may be empty."""
    for ending in ("", "'", '"'):  # closes an open quote
        try:
            found = shlex.split(line + ending)
        except ValueError:
            continue
        return [*found, ""] if line[-1:].isspace() or not found else found
    return [""]


def _beginning(word: str, known: Sequence[str]) -> list[str]:
    return [one for one in known if one.startswith(word)]


def _split_config_dir(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    try:
        folder, rest = take_config_dir(arguments)
    except UserError:
        return None, list(arguments)
    return (folder if folder is not None and folder.is_dir() else None), rest


def _described(
    command: str, arguments: Sequence[str], config_dir: Path | None
) -> tuple[list[Described], Mapping[str, Any]]:
    """The command's values with the typed ones, or the defaults if those are wrong."""
    typed = [one for one in arguments if "=" in one and not one.startswith("-")]
    for overrides in ([one for one in typed if "," not in one], []):  # without lists of a sweep
        try:
            with composing(command, config_dir) as also:
                config = compose_untyped(command, overrides, also, config_dir)
                values: Any = OmegaConf.to_container(config)
                return list(describe(COMMANDS[command], values)), values
        except (UserError, ImportError, AttributeError):  # also from a user's class
            continue
    return [], {}


def _groups(values: Mapping[str, Any], config_dir: Path | None) -> list[str]:
    of_training = ("method", "experiment") if "objective" in values else ()
    return [one for one in groups(config_dir) if one in values or one in of_training]


def _keys(command: str, word: str, arguments: Sequence[str], config_dir: Path | None) -> list[str]:
    """Completions of a key: groups and values, up to the next dot."""
    described, values = _described(_values_of(command), arguments, config_dir)
    keys = [f"{one}=" for one in _groups(values, config_dir)]
    keys += [f"{one.key}=" for one in described]
    if command == "sweep":
        own, _ = _described(command, [], None)
        keys += [f"{one.key}=" for one in own]
    level = word.count(".")
    found = dict.fromkeys(_up_to(key, level) for key in keys if key.startswith(word))
    return sorted(found)


def _values_of(command: str) -> str:
    """The command whose values `command` takes."""
    return "train" if command == "sweep" else command


def _up_to(key: str, level: int) -> str:
    parts = key.split(".")
    return key if len(parts) <= level + 1 else ".".join(parts[: level + 1]) + "."


def _values(
    command: str, word: str, arguments: Sequence[str], config_dir: Path | None
) -> list[str]:
    """Completions of a value: choices, true and false, paths, studies; also within a list."""
    key, _, typed = word.partition("=")
    kept, comma, last = typed.rpartition(",")
    start = f"{key}={kept}{comma}"
    name = key.lstrip("+~")
    if name in groups(config_dir):
        return [start + one for one in _beginning(last, choices_of(name, config_dir))]
    if name == "study":
        return [start + one for one in _beginning(last, _studies(arguments))]
    described, _ = _described(_values_of(command), arguments, config_dir)
    if command == "sweep":
        described += _described(command, [], None)[0]
    for one in described:
        if one.key == name:
            return [start + value for value in _allowed(one, last)]
    return []


def _allowed(described: Described, word: str) -> Iterator[str]:
    known = described.about
    if known.choices is not None:
        yield from _beginning(word, [str(one) for one in known.choices])
    elif isinstance(described.value, bool):
        yield from _beginning(word, ("true", "false"))
    elif known.names_a_place:
        yield from _paths(word)


def _paths(word: str) -> list[str]:
    folder, _, name = word.rpartition("/")
    start = f"{folder}/" if "/" in word else ""
    place = Path(start or ".").expanduser()
    if not place.is_dir():
        return []
    entries = sorted(place.iterdir())
    shown = [one for one in entries if name or not one.name.startswith(".")]
    return [
        f"{start}{one.name}{'/' if one.is_dir() else ''}"
        for one in shown
        if one.name.startswith(name)
    ]


def _runs_dir(arguments: Sequence[str]) -> Path:
    given = {one.partition("=")[0]: one.partition("=")[2] for one in arguments}
    return Path(given.get("runs_dir", "runs"))


def _studies(arguments: Sequence[str]) -> list[str]:
    return sorted(path.name for path in _runs_dir(arguments).glob("*") if path.is_dir())


def _runs(arguments: Sequence[str]) -> list[str]:
    study = next((one.partition("=")[2] for one in arguments if one.startswith("study=")), "*")
    found = _runs_dir(arguments).glob(f"{study}/*/*/config.yaml")
    return sorted({path.parent.name for path in found})
