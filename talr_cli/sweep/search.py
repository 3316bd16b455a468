"""What a search maximises: the domain score, as long as general ability does not suffer too much.

Hydra's Optuna sweeper knows no constraints, so the bound is a penalty. A trial is `talr train` in a
process of its own, which frees its memory and leaves its run directory like any other run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.run.config import TrainConfig
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results

# Points of domain score that a point of general score beyond the bound costs: no gain is worth it,
# and a search still sees in which direction the bound lies.
PENALTY = 10.0


def trial(config: TrainConfig, arguments: Sequence[str]) -> float:
    """Make the run that `talr train` with these arguments makes; how good it is."""
    base = _base_score(config)
    command = [sys.executable, "-m", "talr_cli.cli", "train", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the run failed with exit code {done.returncode}")
    directory = RunDirectory(Path(done.stdout.rpartition("run directory: ")[2].strip()))
    results = directory.read_results()
    if results is None:
        raise UserError(f"{directory.path} has no scores: a search needs eval=true")
    return penalised(results, base, config.max_general_loss)


def penalised(results: Mapping[str, Any], base: float, max_general_loss: float) -> float:
    """The domain score, less the penalty for what general ability lost beyond the bound."""
    beyond = max(0.0, base - results["general"]["score"] - max_general_loss)
    return results["domain"]["score"] - PENALTY * beyond


def _base_score(config: TrainConfig) -> float:
    """General score of the model before training."""
    for results in load_results(Path(config.runs_dir), config.study):
        run = results["run"]
        if run["method"] == "base" and run["model"] == config.model.name:
            return results["general"]["score"]
    raise UserError(
        f"study={config.study} has no scores of the base model, from which a loss is measured: "
        f"type `talr eval study={config.study}` first, with the same model, dataset and suite"
    )
