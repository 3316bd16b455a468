"""From a composed config to the dataclass of its command, with its parts as objects.

All problems are reported together. Knows plain values and dataclasses, not the command line.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from talr_cli.config.commands import COMMANDS
from talr_cli.config.mistakes import nearest
from talr_cli.config.parts import make
from talr_cli.config.quoting import quoted
from talr_cli.errors import UserError
from talr_cli.fields import declaration_of, expand_home, problems
from talr_cli.runs.run_directory import study_path


def schema(kind: type) -> type:
    """The dataclass in a form for OmegaConf, with parts of any class typed as Any."""
    parts = [
        (field.name, Any, dataclasses.field(default=None))
        for field in dataclasses.fields(kind)
        if declaration_of(field).is_part
    ]
    return dataclasses.make_dataclass(kind.__name__, parts, bases=(kind,), kw_only=True)


# The values of a suite that depend on the machine or the command, not on the suite.
_MACHINE_VALUES = (
    *("limit", "data_dir", "batch_size", "backend", "vllm_python", "tensor_parallel"),
    "allow_unsafe_code",
)


def typed_config(
    command: str, config: DictConfig, overrides: Sequence[str], also: Sequence[str] = ()
) -> Any:
    """The dataclass of a command from its composed config; call it inside `composing`.

    Args:
        overrides: The overrides that the user typed.
        also: The overrides that make Hydra find the user's own groups.

    Raises:
        UserError: Names every value that is missing or wrong.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    drop_preset_name(values, {one.partition("=")[0].lstrip("+") for one in overrides})
    if isinstance(values.get("score_suite"), str):
        named = compose(command, [*also, f"suite={quoted(values['score_suite'])}"]).suite
        suite: Any = OmegaConf.to_container(named, resolve=True)
        values["score_suite"] = suite | machine_values(suite, values["suite"])
    return build(command, values)


def machine_values(suite: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `other` that depend on the machine or the command, for `suite` to take over."""
    kept = {"data_dir"} if suite["data_dir"] is not None else set()
    return {key: other[key] for key in _MACHINE_VALUES if key not in kept}


def build(command: str, values: Mapping[str, Any], stored: Sequence[str] = ()) -> Any:
    """The dataclass of a command from plain values of the right types.

    Args:
        stored: The keys of the parts that were read from a run's files, not typed by the user.

    Raises:
        UserError: Names every value that is missing or wrong.
    """
    found: list[str] = []
    config = _build(COMMANDS[command], values, "", stored, found)
    if isinstance(study := values.get("study"), str) and study:
        try:  # before models and rows are fetched
            study_path(Path(), study)
        except UserError as error:
            found.append(str(error))
    if found:
        raise UserError("; ".join(found))
    return config


def drop_preset_name(values: dict[str, Any], given: set[str]) -> None:
    """Drop a preset's name and package if the path of another model was typed."""
    model = values.get("model")
    if not model:
        return
    if model["made_for"] not in (None, model["path"]):
        for key in ("name", "package"):
            if f"model.{key}" not in given:
                model[key] = {"name": "", "package": None}[key]


def _build(
    kind: type, values: Mapping[str, Any], prefix: str, stored: Sequence[str], found: list[str]
) -> Any:
    types = get_type_hints(kind)
    before = len(found)
    names = [field.name for field in dataclasses.fields(kind)]
    # Hydra allows to add keys with + and to delete them with ~.
    for name in values:
        if name not in names:
            known = [f"{prefix}{one}" for one in names]
            guess = nearest(f"{prefix}{name}", known)
            found.append(f"{prefix}{name} is not a config value{guess}")
    for name in names:
        if name not in values:
            found.append(f"{prefix}{name} cannot be deleted: give it another value")
    built: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        key = f"{prefix}{field.name}"
        value = values.get(field.name)
        if declaration_of(field).is_part:
            built[field.name], wrong = make(key, value or {}, key in stored)
            found += wrong
        elif dataclasses.is_dataclass(types[field.name]):
            built[field.name] = _build(types[field.name], value or {}, f"{key}.", stored, found)
        else:
            plain[field.name] = value
    found[before:before] = problems(kind, plain, prefix)
    if len(found) > before:
        return None
    try:
        return kind(**built, **expand_home(kind, plain))
    except UserError as error:  # values that contradict each other
        found.append(str(error))
        return None
