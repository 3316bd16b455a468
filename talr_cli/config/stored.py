"""What `ckpt=` means: a run, a checkpoint or adapter on disk, a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from talr_cli.errors import UserError
from talr_cli.models.sources import ModelSource, directory_source, resolve
from talr_cli.runs.run_directory import RunDirectory


def run_of(ckpt: str | None) -> RunDirectory | None:
    """The run directory that `ckpt` is, or is the model/ of."""
    if ckpt is None:
        return None
    for path in (Path(ckpt), Path(ckpt).parent):
        directory = RunDirectory(path)
        if directory.config.exists() and directory.status.exists():
            if not directory.model.exists():
                state = directory.read_status().state
                if state == "evaluated":
                    raise UserError(
                        f"{path} has no model any more (keep=best or none): "
                        "`talr train ... eval=false` makes it again"
                    )
                raise UserError(f"{path} has no model yet (it is {state}): run `talr train` again")
            return directory
    return None


def with_config_of(run: RunDirectory, config: DictConfig) -> tuple[DictConfig, bool]:
    """A run's model and dataset config, but for what was typed; and whether the data is its own."""
    stored: Any = OmegaConf.load(run.config)
    typed = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    # Without the types of the schema: another dataset has other fields.
    merged = DictConfig(OmegaConf.to_container(config))
    for group in ("model", "dataset"):
        if any(override.key_or_group == group for override in typed):
            continue
        merged[group] = stored[group]
        for override in typed:
            if override.key_or_group.startswith(f"{group}."):
                OmegaConf.update(merged, override.key_or_group, override.value())
    is_own_data = merged.dataset == stored.dataset
    if is_own_data:
        for key in ("lr", "seed", "method", "study"):
            merged[key] = stored[key]
    return merged, is_own_data


def checkpoint(config: DictConfig, run: RunDirectory | None) -> ModelSource:
    """The weights that `config.ckpt` names: those of its run, of a directory, or of the hub."""
    if run is not None:
        run.check_model()
        return directory_source(run.model)
    changed = {"path": config.ckpt, "revision": None, "package": None, "random_init": None}
    return resolve(OmegaConf.merge(config.model, changed))
