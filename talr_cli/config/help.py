"""The text of `--help` and docs/config.md about config values, from their declarations."""

import dataclasses
import importlib
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from talr_cli import streams
from talr_cli.config.commands import conf_dir
from talr_cli.fields import Declaration, declaration_of
from talr_cli.printable import rate_text
from talr_cli.scorers.user import look_in_current_folder

LONGEST = 100  # characters of a line
INDENT = 4
FLAGS = (
    "Flags: --cfg job (print the config), --config-dir DIR (add your own groups),\n"
    "--hydra-help (Hydra's own flags), -v (print the traceback of an error)\n"
)


@dataclass(frozen=True)
class Described:
    """A config value: its key, its current value, and its declaration."""

    key: str
    value: Any
    about: Declaration

    @property
    def sentence(self) -> str:
        """Its meaning and its allowed values."""
        allowed = self.about.allowed
        doc = self.about.doc.removesuffix(".")
        return f"{doc} ({allowed})" if allowed else doc


def help_text(command: str, kind: type, values: Mapping[str, Any], config_dir: Path | None) -> str:
    """The help of a command, with the values that result from its arguments."""
    first = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8").partition("defaults:")[0]
    usage = "\n".join(line.removeprefix("#").removeprefix(" ") for line in first.splitlines())
    parts = [usage.strip(), ""]
    choices = list(_choices(values, config_dir))
    if choices:
        parts += ["Choices (group=choice):", *(line for one in choices for line in one), ""]
    parts.append("Values (key=value):")
    for described in describe(kind, values):
        parts += _lines(f"{described.key}={shown(described.value)}", described.sentence)
    return "\n".join([*parts, "", FLAGS])


def describe(
    kind: type, values: Mapping[str, Any], prefix: str = "", identity: bool = True
) -> Iterator[Described]:
    """Every value of a config, in the order of declaration.

    Args:
        identity: False if no value of `kind` belongs to a run's identity.
    """
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, known, found = f"{prefix}{field.name}", declaration_of(field), values.get(field.name)
        if known.is_part:
            if found:
                target = found.get("_target_", "")
                yield from describe(class_of(target), found, f"{key}.", identity)
        elif dataclasses.is_dataclass(types[field.name]):
            yield from describe(
                types[field.name], found or {}, f"{key}.", identity and known.identity
            )
        else:
            counts = identity and known.identity
            yield Described(key, found, dataclasses.replace(known, identity=counts))


def class_of(target: str) -> type:
    """The class with this dotted name, from a part's `_target_`."""
    module, _, name = target.rpartition(".")
    look_in_current_folder()
    return getattr(importlib.import_module(module), name)


def _choices(values: Mapping[str, Any], config_dir: Path | None) -> Iterator[list[str]]:
    """The choices of each group of the command, as lines."""
    for group in groups(config_dir):
        top = group.partition("/")[0]
        if top in values or (top in ("method", "experiment") and "objective" in values):
            yield _wrapped(f"{group}: {', '.join(choices_of(group, config_dir))}")


def groups(config_dir: Path | None) -> list[str]:
    """The groups of the shipped config and of the user's own one."""
    folders = [conf_dir(), *([config_dir] if config_dir else [])]
    found = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    return sorted(found - {"hydra", "__pycache__"})


def groups_of(command: str) -> list[str]:
    """The groups of conf/ of which a command takes a choice, whether or not there is a default."""
    text = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")
    defaults = (yaml.safe_load(text) or {}).get("defaults", ())
    named = [next(iter(one)) for one in defaults if isinstance(one, dict)]
    return [group for group in named if not group.startswith("override ")]


def choices_of(group: str, config_dir: Path | None) -> list[str]:
    """The choices of a group, with those in subfolders."""
    folders = [conf_dir() / group, *([config_dir / group] if config_dir else [])]
    return sorted(
        {
            path.relative_to(folder).with_suffix("").as_posix()
            for folder in folders
            for path in folder.rglob("*.yaml")
        }
    )


def shown(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return rate_text(value) if isinstance(value, float) else str(value)


def _lines(head: str, text: str) -> list[str]:
    """The text next to its head, or below a long head."""
    column = min(40, _width() // 2)
    if len(head) + 2 > column:
        return [*_wrapped(head), *_indented(text, column)]
    first, *rest = _indented(text, column) or [""]
    return [head.ljust(column) + first.lstrip(), *rest]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _width(),
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indented(text: str, column: int) -> list[str]:
    pad = " " * column
    return textwrap.wrap(text, _width(), initial_indent=pad, subsequent_indent=pad)


def _width() -> int:
    return min(LONGEST, streams.terminal_width() or LONGEST)
