"""Declares config values: their meaning, range and role in a run's identity, in one place.

The dataclasses of configs are in the packages that read them. Each field is declared by `value` or
`part`, on which checks, the run's identity, `--help` and docs/config.md are based. Knows dataclass
fields; does not know Hydra, nor which configs there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.printable import rate_text
from talr_cli.runs.identity import code_digest, file_digest
from talr_cli.runs.places import files_at

REQUIRED: Any = "???"  # marks a required value, as in YAML files
_META = "talr"


@dataclass(frozen=True)
class Declaration:
    """The declaration of a config value.

    Attributes:
        doc: What it means, with its unit, in a sentence.
        above: An exclusive lower bound; `at_least` is an inclusive one.
        below: An exclusive upper bound; `at_most` is an inclusive one.
        or_auto: Whether it may also be `auto`.
        identity: Whether it belongs to a run's identity, because it can change the weights.
        is_file: Whether it names a file, whose content counts for the identity, not its path.
        is_path: Whether it names another place on disk.
        is_part: Whether it is an object that the config names by its class.
    """

    doc: str
    choices: tuple[Any, ...] | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    or_auto: bool = False
    may_be_empty: bool = True
    may_be_infinite: bool = False
    identity: bool = True
    is_file: bool = False
    is_path: bool = False
    is_part: bool = False

    @property
    def names_a_place(self) -> bool:
        return self.is_file or self.is_path

    @property
    def allowed(self) -> str:
        """The choices or the range in words; "" if any value of the type is allowed."""
        if self.choices is not None:
            return " | ".join(map(str, self.choices))
        bounds = (
            ("above", self.above),
            ("at least", self.at_least),
            ("below", self.below),
            ("at most", self.at_most),
        )
        words = [f"{word} {bound:.10g}" for word, bound in bounds if bound is not None]
        return ", ".join(["auto, or a whole number"] * self.or_auto + words)

    @property
    def _interval(self) -> str:
        low = f"({self.above:g}" if self.above is not None else None
        low = low or (f"[{self.at_least:g}" if self.at_least is not None else "(-infinity")
        high = f"{self.below:g})" if self.below is not None else None
        high = high or (f"{self.at_most:g}]" if self.at_most is not None else "infinity)")
        return f"{low}, {high}"

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if value is None or (self.or_auto and value == "auto"):
            return None
        if value == "" and not self.may_be_empty:
            return "is empty: give a value"
        if self.choices is not None and value not in self.choices:
            return f"is not one of {', '.join(map(str, self.choices))}"
        if self.or_auto and (isinstance(value, bool) or not isinstance(value, int)):
            return "is neither a whole number nor auto"
        is_invalid = math.isnan if self.may_be_infinite else lambda one: not math.isfinite(one)
        if isinstance(value, float) and is_invalid(value):
            return "is not a finite number"
        if isinstance(value, int | float) and not isinstance(value, bool):
            outside = (
                (self.above is not None and value <= self.above)
                or (self.at_least is not None and value < self.at_least)
                or (self.below is not None and value >= self.below)
                or (self.at_most is not None and value > self.at_most)
            )
            if outside:
                return f"is outside {self._interval}"
        return None


def value(
    doc: str,
    default: Any = REQUIRED,
    *,
    factory: Callable[[], Any] | None = None,
    **about: Any,
) -> Any:
    """Declare a field of a config dataclass.

    Args:
        factory: Makes the default, if it is a list or a mapping.
        about: Attributes of `Declaration`.
    """
    metadata = {_META: Declaration(doc, **about)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def part(doc: str, default: Any = REQUIRED, **about: Any) -> Any:
    """Declare a field with an object that the config names by its class, such as a dataset.

    The object's own values are declared in that class.
    """
    return value(doc, default, is_part=True, **about)


def declaration_of(field: dataclasses.Field[Any]) -> Declaration:
    """The declaration of a field; an empty one if it has none."""
    return field.metadata.get(_META, Declaration(""))


def problems(kind: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What is wrong with the values of a config dataclass, as `key=value is ...`.

    Args:
        values: {name of the field: value}.
        prefix: Is put before each key, such as `trainer.`
    """
    for field in dataclasses.fields(kind):
        found, key = values.get(field.name), f"{prefix}{field.name}"
        if found == REQUIRED:
            yield f"{key} is required: type {key}=VALUE"
            continue
        reason = declaration_of(field).problem(found)
        if reason is not None:
            shown = rate_text(found) if isinstance(found, float) and abs(found) < 0.01 else found
            yield f"{key} {reason}" if found == "" else f"{key}={shown} {reason}"


def plain(settings: Any) -> Any:
    """A config as plain values for YAML and JSON; a part names its class by `_target_`.

    An object that is not a dataclass returns its values by `as_config()`.
    """
    if hasattr(settings, "as_config"):
        return settings.as_config()
    if isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    if not dataclasses.is_dataclass(settings):
        return settings
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values[field.name] = plain(value)
        if declaration_of(field).is_part and dataclasses.is_dataclass(value):
            values[field.name] = {"_target_": target_of(type(value)), **values[field.name]}
    return values


def expand_home(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with `~` in paths replaced by the user's home."""
    paths = {
        field.name for field in dataclasses.fields(kind) if declaration_of(field).names_a_place
    }
    return {name: _expand(one) if name in paths else one for name, one in values.items()}


def _expand(path: Any) -> Any:
    if isinstance(path, list):
        return [_expand(one) for one in path]
    is_from_home = isinstance(path, str) and path.startswith("~")
    return str(Path(path).expanduser()) if is_from_home else path


def target_of(kind: type) -> str:
    """The dotted path by which a config names a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_own(kind: type) -> bool:
    """Whether a class is the user's own, not talr's."""
    return kind.__module__.partition(".")[0] != "talr_cli"


def identity_of(settings: Any, include_all: bool = False) -> dict[str, Any]:
    """The values that belong to a run's identity, as from `plain`, with files by their content.

    For a class of the user's own, its source file counts as well.

    Args:
        include_all: Whether to include the other values, too.
    """
    code = code_digest(type(settings))
    values: dict[str, Any] = {} if code is None else {"_code_": code}
    for field in dataclasses.fields(settings):
        value, declared = getattr(settings, field.name), declaration_of(field)
        if not (declared.identity or include_all):
            continue
        if declared.is_file and value is not None:
            values[field.name] = _content_digest(value)
        elif dataclasses.is_dataclass(value):
            values[field.name] = identity_of(value, include_all)
            if declared.is_part:
                values[field.name]["_target_"] = target_of(type(value))
        else:
            values[field.name] = plain(value)
    return values


def files_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, path) of every file that a config names, parts included."""
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        if declaration_of(field).is_file and value is not None:
            for path in [value] if isinstance(value, str) else value:
                yield key, path
        elif dataclasses.is_dataclass(value):
            yield from files_of(value, f"{key}.")


def _content_digest(value: str | list[str]) -> Any:
    """The digest of a file, or those of a folder's or pattern's files; any other value itself."""
    if isinstance(value, list):
        return [_content_digest(one) for one in value]
    found = [f"content {file_digest(path)}" for path in files_at(value)]
    return value if not found else found[0] if Path(value).is_file() else found
