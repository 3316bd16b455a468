"""Quotes texts on the command line that Hydra's grammar would read otherwise.

Paths may have characters of the grammar, dataset.train=/data/a=b/it's (new).jsonl, and the name
study=2025_11 is no number.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from talr_cli.config.commands import COMMANDS
from talr_cli.fields import declaration_of


def quoted(value: str) -> str:
    """The value as a quoted text of Hydra's grammar."""
    # Inside quotes, backslashes are literal unless a quote follows.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def with_quoted_texts(command: str, overrides: Sequence[str]) -> list[str]:
    """The overrides with their paths quoted, and with texts that look like numbers."""
    kinds = dict(_texts(COMMANDS[command]))
    places = {key for key, is_place in kinds.items() if is_place}
    takes_lists = command == "train"  # also from a sweep, where `a,b` are two values
    return [
        _with_quoted_path(_with_quoted_numbers(one, kinds), places, takes_lists)
        for one in overrides
    ]


def _with_quoted_numbers(override: str, texts: Collection[str]) -> str:
    """The override; values that Hydra would make a number or a bool of are quoted for a text."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in texts or not re.fullmatch(r"[\w.,+-]+", value, re.ASCII):
        return override
    return key + equals + ",".join(map(_without_number, value.split(",")))


def _without_number(value: str) -> str:
    read = OverridesParser.create().parse_override(f"a={value}").value()
    return quoted(value) if isinstance(read, int | float) else value


def _with_quoted_path(override: str, places: set[str], takes_lists: bool) -> str:
    key, _, value = override.partition("=")
    if not value or value[0] in "'\"" or value.startswith("${"):
        return override
    names_a_file = not re.fullmatch(r"[\w./:@%-]*", value, re.ASCII) and _exists(value)
    if names_a_file:
        return f"{key}={quoted(value)}"
    is_place = key.lstrip("+") in places
    if _parses(override) and (takes_lists or not is_place or "," not in value or value[0] == "["):
        return override
    if is_place or value.startswith(("~/", "/", "./", "../")):
        return f"{key}={quoted(value)}"
    if value.startswith("["):  # a list of paths, where Hydra's grammar does not allow `~`
        from_home = re.compile(r"(?<=[\[, ])~/[^,\[\]'\"]*")
        return f"{key}={from_home.sub(lambda path: quoted(path[0]), value)}"
    return override


def _exists(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such home
        return False


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _texts(kind: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(key, whether it names a place) of the values of a config that are texts or places."""
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        is_place = declaration_of(field).names_a_place
        if is_place or types[field.name] in (str, str | None):
            yield f"{prefix}{field.name}", is_place
        elif dataclasses.is_dataclass(types[field.name]):
            yield from _texts(types[field.name], f"{prefix}{field.name}.")
