"""Resolves `ckpt=`, which may name a run, a checkpoint or adapter on disk, or a hub id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource, directory_source, resolve_model
from talr_cli.runs.run_directory import MODEL_REMEDY, RunDirectory


def find_run(ckpt: str | None) -> RunDirectory | None:
    """The run whose directory (or its model/) `ckpt` names; None if it names something else.

    Raises:
        UserError: The run has no model, any more or yet.
    """
    if ckpt is None:
        return None
    path = Path(ckpt)
    for folder in (path, path.parent):
        directory = RunDirectory(folder)
        if folder != path and path != directory.model:
            break  # something else within a run's directory
        if directory.config.exists() and directory.status.exists():
            if not directory.model.exists():
                state = directory.read_status().state
                if state == "evaluated":
                    raise UserError(
                        f"{folder} has no model any more (keep=best or none): "
                        "`talr train ... eval=false` makes it again"
                    )
                raise UserError(
                    f"{folder} has no model yet (it is {state}): run `talr train` again"
                )
            return directory
    return None


def resolve_checkpoint(ckpt: str, run: RunDirectory | None, model: ModelConfig) -> ModelSource:
    """The weights that `ckpt` names: those of its run, of a directory, or of the hub.

    Raises:
        UserError: There are none.
    """
    if run is not None:
        run.check_own_model()
        return directory_source(run.model, MODEL_REMEDY)
    try:
        return resolve_model(
            replace(model, path=ckpt, revision=None, package=None, random_init=None)
        )
    except UserError as error:
        said = str(error).replace("model.path=", "ckpt=")
        if "/" not in ckpt and not Path(ckpt).exists():  # no hub id has a single word
            said += "; of a run it is the directory, which `talr show NAME` says"
        raise UserError(said) from error
