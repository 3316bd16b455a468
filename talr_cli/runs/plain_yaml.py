"""Reads and writes a run's YAML files: plain values only, without aliases.

Nested aliases are refused because a few lines of them can expand to more than fits into memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from talr_cli.errors import UserError, reason_of
from talr_cli.runs.reading import read_text

# What PyYAML raises if a value does not fit its tag, as in `!!bool perhaps`.
_BAD_VALUE = (ValueError, LookupError, TypeError, AttributeError)
_LARGEST = 2**64  # Python refuses to print numbers of thousands of digits


def to_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, kind: type) -> tuple[str, Any]:
    """(text of a file, its parsed content).

    Raises:
        UserError: It cannot be read, or its content is not a `kind`.
    """
    try:
        text = read_text(path)
        content = yaml.load(text, _Loader)
        if not isinstance(content, kind):
            raise ValueError("its content has the wrong type")
        _check_plain(content)
    except (*_BAD_VALUE, OSError, RecursionError, yaml.YAMLError) as error:
        reason = reason_of(error, 300)  # it may quote a tag of any length
        raise UserError(f"{path} cannot be read ({reason}): restore or delete its run") from error
    return text, content


def _check_plain(value: Any) -> None:
    """Raise ValueError for what talr never writes and JSON cannot hold, such as a date."""
    if isinstance(value, dict | list):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_plain(one)
    elif not (value is None or isinstance(value, str | int | float)):
        raise ValueError(f"it holds a {type(value).__name__}")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("it holds a number of too many digits")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "it has an alias", event.start_mark)
        return super().compose_node(parent, index)
