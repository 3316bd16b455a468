"""How a run's stored config differs from the defaults.

A run's files are data: no object is made from them, and only talr's own classes are looked up.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from talr_cli.config.composition import load
from talr_cli.config.help import class_of
from talr_cli.config.parts import TRUSTED
from talr_cli.fields import REQUIRED, plain


def differences(stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (value, default)} of the values that differ; the default is None if there is none.

    A part is compared with the defaults of its own class.
    """
    command = "train" if "trainer" in stored else "eval"
    defaults = dict(_flat(plain(load(command, []))))
    for section in TRUSTED:
        defaults |= dict(_class_defaults(section, stored.get(section), defaults))
    return {
        key: (value, defaults.get(key))
        for key, value in _flat(stored)
        if key not in defaults or defaults[key] != value
    }


def _class_defaults(
    section: str, values: Any, defaults: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The defaults of a part whose class is not the default one; none if it is not talr's."""
    target = values.get("_target_") if isinstance(values, Mapping) else None
    if target is None or target == defaults.get(f"{section}._target_"):
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
