"""The config to score or analyze a run, with the run's model and dataset unless others are typed.

A run's files are data, perhaps from another person: only talr's own classes are loaded from them,
and other code runs only if the user types its name again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talr_cli.config.composition import Composed
from talr_cli.config.typed import build, drop_preset_name
from talr_cli.errors import UserError, reason_of
from talr_cli.fields import expand_home, identity_of
from talr_cli.models.checkpoints import find_run
from talr_cli.models.config import ModelConfig
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import RunDirectory

Config = TypeVar("Config")
GROUPS = ("model", "dataset")


@dataclass(frozen=True)
class StoredConfig(Generic[Config]):
    """A config with a run's model and dataset.

    Attributes:
        is_own: Whether the rows and the prompts are the same as in the run.
        stored: The run's config as plain values.
    """

    config: Config
    is_own: bool
    stored: Mapping[str, Any]


def overrides_of_run(overrides: Sequence[str]) -> list[str]:
    """The overrides of the stored model or dataset of the run that is scored.

    They are kept from Hydra: the run's dataset may have values that the default one lacks.
    """
    given = {one.partition("=")[0]: one.partition("=")[2] for one in overrides}
    ckpt = given.get("ckpt", "").strip("'\"")
    if not ckpt or find_run(ckpt) is None:
        return []
    kept = [f"{group}." for group in GROUPS if group not in given]
    return [one for one in overrides if one.startswith(tuple(kept))] if kept else []


def run_config(command: str, composed: Composed[Config], run: RunDirectory) -> StoredConfig[Config]:
    """The config of `command` with the model and dataset of `run`, changed by the typed overrides.

    Raises:
        UserError: The run's config is damaged, or names code that the user has to type again.
    """
    stored = _read(run)
    typed = OverridesParser.create().parse_overrides(list(composed.overrides))
    given = {override.key_or_group for override in typed}
    values = dict(composed.values)
    for group in GROUPS:
        if group in given:
            continue
        section = _section(run, stored[group])
        if f"{group}.scorer" in given:
            section.pop("scorer", None)  # what is typed would be merged into it
        for override in typed:
            if override.key_or_group.startswith(f"{group}."):
                key = override.key_or_group.removeprefix(f"{group}.")
                OmegaConf.update(section, key, override.value())
        values[group] = OmegaConf.to_container(section)
        if group == "dataset" and "dataset.scorer" not in given:
            _refuse_own_scorer(run, values[group].get("scorer"))
    if "model" not in given:
        values["model"] = _checked_model(run, values["model"], "model.trust_remote_code" in given)
        if "model.attention" not in given:
            _refuse_hub_kernel(run, values["model"])
        if "model.chat_template" not in given:
            # It is saved in model/; its file may have changed.
            values["model"]["chat_template"] = None
    if {"model", "model.path"} & given:
        drop_preset_name(values, given)
    kept = [group for group in GROUPS if group not in given]
    config = build(command, values, stored=kept)
    is_own = values["dataset"] == stored["dataset"] and _same_prompts(
        run, values["model"], _checked_model(run, stored["model"], trusted=True)
    )
    return StoredConfig(config, is_own, stored)


def _same_prompts(run: RunDirectory, model: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether prompts are those of the run: by its template, with its variables and its date."""
    template = model["chat_template"]
    one, other = (
        identity_of(ModelConfig(**expand_home(ModelConfig, {**values, "chat_template": None})))
        for values in (model, stored)
    )
    return one == other and (template is None or _is_saved(run, Path(template).expanduser()))


def _is_saved(run: RunDirectory, template: Path) -> bool:
    """Whether the run's model has this template, perhaps with a date before it."""
    try:
        saved = read_text(run.model / "chat_template.jinja")
        return saved.endswith(read_text(template))
    except (OSError, ValueError):
        return False


def _read(run: RunDirectory) -> dict[str, Any]:
    stored = run.read_config()
    if not all(isinstance(stored.get(group), dict) for group in GROUPS):
        raise UserError(f"{run.config} holds no config of a run: it is damaged")
    return stored


def _section(run: RunDirectory, stored: dict[str, Any]) -> DictConfig:
    try:
        return OmegaConf.create(stored)
    except OmegaConfBaseException as error:  # a date, `${`, or the like
        reason = reason_of(error).partition(" full_key:")[0]
        raise UserError(f"{run.config}: {reason}: the run is damaged") from error


def _checked_model(run: RunDirectory, values: dict[str, Any], trusted: bool) -> dict[str, Any]:
    """The stored values of the model, after a check of their names and types."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), values)
    except OmegaConfBaseException as error:
        reason = reason_of(error).partition(" full_key:")[0]
        raise UserError(f"{run.config}: model: {reason}: the run is damaged") from error
    checked: Any = OmegaConf.to_container(merged)
    if checked["trust_remote_code"] and not trusted:
        raise UserError(
            f"{run.config} would run the code that comes with {checked['path']}: if you trust it, "
            "type model.trust_remote_code=true"
        )
    return checked


def _refuse_hub_kernel(run: RunDirectory, model: Mapping[str, Any]) -> None:
    attention = str(model["attention"])
    if "/" in attention:  # transformers would load and run what that repository holds
        raise UserError(
            f"{run.config} would run code of the hub, model.attention={attention}: if you trust "
            "it, type that"
        )


def _refuse_own_scorer(run: RunDirectory, scorer: Any) -> None:
    own = scorer.get("_target_") if isinstance(scorer, dict) else scorer
    if isinstance(scorer, dict) or (isinstance(own, str) and "." in own):
        raise UserError(
            f"{run.config} names a scorer that is not talr's, {own}: if you trust it, type "
            f"{f'dataset.scorer={own}' if own is scorer else 'dataset.scorer again'}"
        )
