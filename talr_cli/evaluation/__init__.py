"""Scores of a checkpoint, and the record of them that everything later reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from talr_cli.data.base import Example, Splits
from talr_cli.data.choices import possible_completions
from talr_cli.evaluation.scorers.user import source_file
from talr_cli.runs.environment import package_versions
from talr_cli.runs.identity import run_identity
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import SCHEMA


def scoring_identity(config: DictConfig) -> str:
    """What scores depend on besides model and data: settings, versions, the user's own scorer."""
    settings: Any = {
        "suite": OmegaConf.to_container(config.suite, resolve=True),
        "domain": OmegaConf.to_container(config.domain, resolve=True),
        "versions": package_versions(),
    }
    # How many rows are scored at once is a matter of memory.
    settings["suite"].pop("batch_size")
    settings["domain"].pop("batch_size")
    scorer = source_file(config.dataset.get("scorer") or "")
    return run_identity(settings, {} if scorer is None else {"scorer": scorer})[:8]


def is_scored(config: DictConfig, directory: RunDirectory) -> bool:
    """Whether the results that lie there were scored the way this config asks for."""
    results = directory.read_results()
    return results is not None and results["scoring"] == scoring_identity(config)


def domain_rows(config: DictConfig, splits: Splits) -> list[Example]:
    """The test rows that are scored.

    Raises:
        UserError: They are to be answered by choosing, and cannot be.
    """
    tests = list(splits.test[: config.domain.limit])
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
