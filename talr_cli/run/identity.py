"""Which run a config means: a hash of everything that decides its result, and of nothing else.

Paths count by content: data files are hashed, the model enters by the fingerprint of its weights,
tokenizer and settings.
"""

from __future__ import annotations

from talr_cli.fields import identity_of
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.identity import run_identity


def identity(config: TrainConfig | EvalConfig, model_fingerprint: str) -> str:
    """Of a training what can change its weights; of an evaluation the checkpoint and the rows."""
    content = identity_of(config)
    content["model"]["fingerprint"] = model_fingerprint
    if isinstance(config, EvalConfig):
        content["dataset"] = identity_of(config.dataset, whole=True)
    return run_identity(content, {})
