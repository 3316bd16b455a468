"""What a search maximises: the domain score, as long as general ability does not suffer too much.

Hydra's Optuna sweeper knows no constraints, so the bound is a penalty. A trial is `talr train` in a
process of its own, which frees its memory and leaves its run directory like any other run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from talr_cli.errors import UserError
from talr_cli.run.config import TrainConfig
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results
from talr_cli.statistics.pairs import PARTS, Results, is_base, score_of, unlike

# Points of domain score that a point of general score beyond the bound costs: no gain is worth it,
# and a search still sees in which direction the bound lies.
PENALTY = 10.0


def trial(config: TrainConfig, arguments: Sequence[str]) -> float:
    """Make the run that `talr train` with these arguments makes; how good it is."""
    bases = _bases(config)
    command = [sys.executable, "-m", "talr_cli.cli", "train", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the run failed with exit code {done.returncode}")
    directory = RunDirectory(Path(done.stdout.rpartition("run directory: ")[2].strip()))
    results = directory.read_results()
    if results is None:
        raise UserError(f"{directory.path} has no scores: a search needs eval=true")
    return penalised(results, _base_score(bases, results), config.max_general_loss)


def penalised(results: Results, base: float, max_general_loss: float) -> float:
    """The domain score, less the penalty for what general ability lost beyond the bound."""
    domain, general = (score_of(results, part) for part in PARTS)
    if domain is None or general is None:
        raise UserError("a search needs both scores of a run, and one of them is missing")
    return domain - PENALTY * max(0.0, base - general - max_general_loss)


def _bases(config: TrainConfig) -> list[Results]:
    """The scores of models of this name before training.

    Raises:
        UserError: There are none.
    """
    found = [
        one
        for one in load_results(Path(config.runs_dir), config.study)
        if is_base(one) and one["run"]["model"] == config.model.name
    ]
    if not found:
        raise UserError(
            f"study={config.study} has no scores of the base model, from which a loss is measured: "
            f"type `talr eval study={config.study}` first, with the same model, dataset and suite"
        )
    return found


def _base_score(bases: Sequence[Results], results: Results) -> float:
    """General score of the model before training, asked what the run was asked.

    Raises:
        UserError: It was asked something else, or is another model of the same name.
    """
    reasons = []
    for base in bases:
        reason = unlike(base, results, "general")
        score = score_of(base, "general")
        if reason is None and score is not None:
            return score
        reasons.append(reason or "its general score is not a number")
    raise UserError(
        f"no loss of general ability can be measured from the base model's scores: {reasons[0]}: "
        "type `talr eval` with the same model, dataset and suite"
    )
