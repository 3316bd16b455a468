"""A run's YAML files: plain values, written without anchors, and read without what acts.

An alias stands for a value that may hold others, and a few lines of them for more than any memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from talr_cli.errors import UserError, reason_of
from talr_cli.runs.reading import read_text

# What PyYAML raises for a value that is none of its tag, as `!!bool perhaps`.
_NOT_PLAIN = (ValueError, LookupError, TypeError, AttributeError)


def as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def from_yaml(path: Path, kind: type) -> tuple[str, Any]:
    """(a file's text, its content, which is a `kind`).

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    try:
        text = read_text(path)
        content = yaml.load(text, _Loader)
        if not isinstance(content, kind):
            raise ValueError("it holds something else")
    except (*_NOT_PLAIN, OSError, RecursionError, yaml.YAMLError) as error:
        reason = reason_of(error)
        raise UserError(f"{path} cannot be read ({reason}): restore or delete its run") from error
    return text, content


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "it has an alias", event.start_mark)
        return super().compose_node(parent, index)
