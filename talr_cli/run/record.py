"""Scores of a checkpoint, and the record of them that everything later reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from talr_cli.data.base import Example, Splits
from talr_cli.data.choices import possible_completions
from talr_cli.data.splitting import even_share
from talr_cli.evaluation.general.local_data import files_read
from talr_cli.runs.environment import package_versions
from talr_cli.runs.identity import run_identity
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import SCHEMA
from talr_cli.scorers.user import source_file


def scoring_identity(config: DictConfig) -> str:
    """What scores depend on besides model and data: settings, versions, the user's own files."""
    settings: Any = {
        "suite": OmegaConf.to_container(config.suite, resolve=True),
        "domain": OmegaConf.to_container(config.domain, resolve=True),
        "versions": package_versions(),
    }
    suite = settings["suite"]
    # How many rows are scored at once is a matter of memory, and where a file lies of taste.
    for key in ("batch_size", "tensor_parallel", "data_dir", "data_files", "allow_unsafe_code"):
        suite.pop(key)
    settings["domain"].pop("batch_size")
    files = files_read(config.suite)
    if suite["task_dir"] not in (None, "mini"):
        folder = Path(suite["task_dir"])
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        files |= {
            str(file.relative_to(folder)): file for file in found if "__pycache__" not in file.parts
        }
        suite["task_dir"] = "folder"
    chosen: Any = config.dataset.get("scorer") or ""
    if OmegaConf.is_dict(chosen):
        settings["scorer"] = OmegaConf.to_container(chosen, resolve=True)
        chosen = chosen.get("_target_", "")
    scorer = source_file(chosen)
    if scorer is not None:
        files["scorer"] = scorer
    return run_identity(settings, files)[:8]


def is_scored(config: DictConfig, directory: RunDirectory) -> bool:
    """Whether the results that lie there are what this config would score here.

    All of it, or as much as this machine has the data for.
    """
    results = directory.read_results()
    if results is None or results["scoring"] != scoring_identity(config):
        return False
    missing = (results["general"] or {}).get("missing")
    if not missing:
        return True
    from talr_cli.evaluation.general.tasks import load_tasks

    return load_tasks(config.suite).missing.keys() == missing.keys()


def domain_rows(config: DictConfig, splits: Splits) -> list[Example]:
    """The test rows that are scored.

    Raises:
        UserError: They are to be answered by choosing, and cannot be.
    """
    tests = even_share(splits.test, config.domain.limit)
    if config.domain.answer_by == "likelihood":
        possible_completions(tests)
    return tests


def results(
    config: DictConfig,
    method: str,
    run_id: str,
    directory: RunDirectory,
    scores: dict[str, Any],
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """The content of results.json; lr and seed are None for what was not trained here.

    `checkpoint` is what was scored, by default the run's own model.
    """
    trained: dict[str, Any] = {"weights": None, "training": None}
    if directory.training.exists():
        trained = json.loads(directory.training.read_text())
    return {
        "schema": SCHEMA,
        "run": {
            "id": run_id[:8],
            "study": config.study,
            "model": config.model.name,
            "dataset": config.dataset.name,
            "method": method,
            "lr": config.get("lr"),
            "seed": config.get("seed"),
            "checkpoint": str(checkpoint or directory.model),
        },
        "scoring": scoring_identity(config),
        **scores,
        **trained,
        "versions": package_versions(),
    }
