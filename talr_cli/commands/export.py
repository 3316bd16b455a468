"""`talr export`: a run's model as a plain checkpoint with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import ExportConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError
from talr_cli.runs.run_directory import RunDirectory


def main(arguments: Sequence[str]) -> None:
    composition.run("export", export, arguments)


def export(composed: Composed[ExportConfig]) -> None:
    """Copy model/ of the run, which is merged and has its tokenizer, and add the card."""
    config = composed.config
    run, out = RunDirectory(Path(config.run)), Path(config.out)
    if not run.config.exists():
        raise UserError(f"run={config.run} is no run directory: `talr recommend` names them")
    if "trainer" not in run.read_config():
        raise UserError(f"run={config.run} holds the scores of a checkpoint, not a trained model")
    if out.exists():
        raise UserError(f"out={config.out} exists: choose another folder or delete it")
    from talr_cli.report.model_card import model_card, train_command
    from talr_cli.runs.atomic import made_whole

    if not run.model.exists():
        raise UserError(
            f"{run.path} has no model, as it is {run.read_status().state} or its model was "
            f"deleted: train it with `{train_command(run)} eval=false`"
        )
    if run.read_results() is None:
        raise UserError(f"{run.path} was not scored: run `talr eval ckpt={run.path}` first")
    run.check_model()
    with made_whole(out) as building:
        shutil.copytree(run.model, building, dirs_exist_ok=True)
        (building / "README.md").write_text(model_card(run, out.name), encoding="utf-8")
    print(f"exported: {out}")
