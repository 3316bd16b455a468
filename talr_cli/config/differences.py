"""Where a stored config differs from the defaults: what the user chose for this run.

A run's files are data: no object is made from them, and only talr's own classes are looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from talr_cli.config.composition import load
from talr_cli.config.help import class_of
from talr_cli.config.parts import TRUSTED
from talr_cli.fields import REQUIRED, plain


def differences(stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (value, default)} where the config of a run differs; None: there is no default.

    A part of another class than the default's is compared with the defaults of its own class.
    """
    command = "train" if "trainer" in stored else "eval"
    usual = dict(_flat(plain(load(command, []))))
    found = {}
    for section in TRUSTED:
        usual |= dict(_of_class(section, stored.get(section), usual))
    for key, value in _flat(stored):
        if key not in usual or usual[key] != value:
            found[key] = (value, usual.get(key))
    return found


def _of_class(section: str, values: Any, usual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The defaults of a part that has another class than usual; none if it is not talr's."""
    target = values.get("_target_") if isinstance(values, Mapping) else None
    if target is None or target == usual.get(f"{section}._target_"):
        return
    if not isinstance(target, str) or not target.startswith(TRUSTED[section]):
        return
    try:
        fields = dataclasses.fields(class_of(target))
    except (ImportError, AttributeError, ValueError, TypeError):  # of another version, or no part
        return
    for field in fields:
        if field.default_factory is not dataclasses.MISSING:
            yield f"{section}.{field.name}", plain(field.default_factory())
        elif field.default is not dataclasses.MISSING and field.default != REQUIRED:
            yield f"{section}.{field.name}", plain(field.default)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
