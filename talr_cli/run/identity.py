"""A run's identity: a hash of everything that decides its result, and of nothing else.

Paths count by content: data files are hashed; the model counts by the fingerprint of its weights,
tokenizer and settings.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from talr_cli.data.base import Dataset, scored_values
from talr_cli.fields import identity_of, plain
from talr_cli.methods.replay import SelfReplay
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.identity import run_identity
from talr_cli.scorers.user import source_file


def identity(config: TrainConfig | EvalConfig, model_fingerprint: str) -> str:
    """A hash of what can change a training's weights, or of an evaluation's model and rows."""
    content = identity_of(config)
    content["model"]["fingerprint"] = model_fingerprint
    if isinstance(config, EvalConfig):
        content["dataset"] = scored_data(config.dataset)
    if isinstance(config, TrainConfig) and config.objective.depends_on_micro_batch:
        rows, all_rows = config.trainer.rows_at_once, config.trainer.batch_size
        if rows not in (None, all_rows):  # by default, such an objective gets undivided batches
            content["trainer"]["micro_batch_size"] = rows
    files: dict[str, Path] = {}
    if isinstance(config, TrainConfig) and isinstance(config.replay, SelfReplay):
        # The scorer decides which rows are trained.
        content["scorer"] = plain(getattr(config.dataset, "scorer", None))
        own = own_scorer(config.dataset)
        files |= {} if own is None else {"scorer": own}
    return run_identity(content, files)


def scored_data(dataset: Dataset) -> dict[str, Any]:
    """The values, and the files by content, that test rows and their scorer may depend on."""
    return scored_values(dataset, identity_of(dataset, include_all=True))


def setting_identity(config: TrainConfig, model_fingerprint: str) -> str:
    """A hash of everything but seed, learning rate, share of the steps and the dataset's seed."""
    neutral = replace(config, lr=1.0, seed=0, at=1.0, dataset=_with_any_data_seed(config.dataset))
    return identity(neutral, model_fingerprint)[:8]


def data_identity(config: TrainConfig, drawn: bool = False) -> str:
    """A hash of how the training data was chosen: values, and files by content.

    What the hub holds under a name is not in it.

    Args:
        drawn: Whether the seed by which rows are drawn counts.
    """
    dataset = config.dataset if drawn else _with_any_data_seed(config.dataset)
    return run_identity(identity_of(dataset), {})[:8]


def _with_any_data_seed(dataset: Any) -> Any:
    return replace(dataset, data_seed=0) if hasattr(dataset, "data_seed") else dataset


def own_scorer(dataset: Dataset) -> Path | None:
    """The file of the scorer, if the user wrote it."""
    scorer = plain(getattr(dataset, "scorer", None)) or ""
    return source_file(scorer["_target_"] if isinstance(scorer, dict) else scorer)
