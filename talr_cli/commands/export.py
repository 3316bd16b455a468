"""`talr export`: a run's model as a plain checkpoint with a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import ExportConfig
from talr_cli.config.composition import Composed
from talr_cli.errors import UserError, kind_and_reason
from talr_cli.printable import printable
from talr_cli.runs.listing import find_run
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import made_by
from talr_cli.runs.to_type import score_command, study_command


def main(arguments: Sequence[str]) -> None:
    composition.run("export", export, arguments)


def export(composed: Composed[ExportConfig]) -> None:
    """Copy model/ of the run, which is merged and has its tokenizer, and add the card."""
    config = composed.config
    run, out = RunDirectory(Path(config.run)), Path(config.out)
    if not run.path.exists():
        run = find_run(config.run, Path(config.runs_dir), config.study).directory
    if not run.config.exists():
        names = study_command("list", config.runs_dir, config.study)
        raise UserError(f"run={config.run} is no run directory: `{names}` names the runs")
    if "trainer" not in run.read_config():
        raise UserError(f"run={config.run} holds the scores of a checkpoint, not a trained model")
    if out.exists() or out.is_symlink():
        raise UserError(f"out={config.out} exists: choose another folder or delete it")
    if out.absolute().resolve().is_relative_to(run.path.resolve()):
        raise UserError(f"out={config.out} lies in the run itself: choose a folder outside of it")
    from talr_cli.report.model_card import model_card
    from talr_cli.runs.atomic import made_whole

    if not run.model.exists():
        raise UserError(
            f"{run.path} has no model, as it is {run.read_status().state} or its model was "
            f"deleted: train it with `{made_by(run)} eval=false`"
        )
    if run.read_results() is None:
        raise UserError(f"{run.path} was not scored: run `{score_command(run.path)}` first")
    _check_files(run)
    run.check_model()
    try:
        card = model_card(run, out.name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run.config} is not the config of the run that {run.results} is of "
            f"({kind_and_reason(error)}): it is damaged, so put back a copy"
        ) from error
    with made_whole(out) as building:
        for file in filter(Path.is_file, run.model.rglob("*")):
            copy = building / file.relative_to(run.model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)  # no modes: the other file system may have none
        (building / "README.md").write_text(card, encoding="utf-8")
    print(f"exported: {printable(str(out))}")


def _check_files(run: RunDirectory) -> None:
    """Refuse a run of which something is a link out of it: that may lead to any file of the user.

    Raises:
        UserError: It, or something that is neither a file nor a folder.
    """
    home = run.path.resolve()
    for path in (*run.path.iterdir(), *run.model.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise UserError(
                f"{path} is a link out of the run, to {path.readlink()}, and what lies there is "
                "not exported: put the file itself in its place, or delete the link"
            )
        if path.is_relative_to(run.model) and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder: delete it")
