"""`talr export`: a run's model as a plain checkpoint with a model card."""

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
from talr_cli.runs.next_command import score_command, study_command
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import command_of_run


def main(arguments: Sequence[str]) -> None:
    composition.run("export", export, arguments)


def export(composed: Composed[ExportConfig]) -> None:
    """Copy the run's model/, which is merged and has its tokenizer, and add a model card."""
    config = composed.config
    run, out = find_run(config.run, Path(config.runs_dir), config.study).directory, Path(config.out)
    if not run.config.exists():
        list_command = study_command("list", config.runs_dir, config.study)
        raise UserError(f"run={config.run} is not a run directory: `{list_command}` lists the runs")
    if "trainer" not in run.read_config():
        raise UserError(f"run={config.run} holds the scores of a checkpoint, not a trained model")
    if out.exists() or out.is_symlink():
        raise UserError(f"out={config.out} exists: choose another folder or delete it")
    if out.absolute().resolve().is_relative_to(run.path.resolve()):
        raise UserError(f"out={config.out} is inside the run itself: choose another folder")
    from talr_cli.report.model_card import model_card
    from talr_cli.runs.atomic import atomic_folder

    if not run.model.exists():
        raise UserError(
            f"{run.path} has no model, as it is {run.read_status().state} or its model was "
            f"deleted: train it with `{command_of_run(run)} eval=false`"
        )
    if run.read_results() is None:
        raise UserError(f"{run.path} was not scored: run `{score_command(run.path)}` first")
    _check_files(run)
    run.check_model()
    try:
        card = model_card(run, out.name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run.config} does not fit {run.results} ({kind_and_reason(error)}): it is damaged, "
            "so restore a copy"
        ) from error
    with atomic_folder(out, replace=False) as building:
        for file in filter(Path.is_file, run.model.rglob("*")):
            copy = building / file.relative_to(run.model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)  # without modes, which the other file system may lack
        (building / "README.md").write_text(card, encoding="utf-8")
    print(f"exported: {printable(str(out))}")


def _check_files(run: RunDirectory) -> None:
    """Raise UserError if a link leads out of the run, as it may lead to any file of the user.

    The same for what is neither a file nor a folder.
    """
    folder = run.path.resolve()
    for path in (*run.path.iterdir(), *run.model.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder):
            raise UserError(
                f"{path} is a link out of the run, to {path.readlink()}, whose content is not "
                "exported: replace it by the file itself, or delete the link"
            )
        if path.is_relative_to(run.model) and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder: delete it")
