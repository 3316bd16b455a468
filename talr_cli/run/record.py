"""The content of results.json, and whether the results of a config exist already.

Knows which settings scores depend on; does not know how scores are computed.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Example, Splits
from talr_cli.data.choices import possible_completions
from talr_cli.data.splitting import sample_evenly
from talr_cli.evaluation.config import DomainEvalConfig
from talr_cli.evaluation.general.local_data import files_below, local_data_files, task_folder
from talr_cli.fields import plain
from talr_cli.models.sources import ModelSource
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.run.identity import own_scorer, scored_data
from talr_cli.runs.environment import package_versions
from talr_cli.runs.identity import run_identity
from talr_cli.runs.results import SCHEMA
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.statistics.pairs import Results

log = logging.getLogger(__name__)

# Settings that do not change scores, as they are about memory or the location of files.
_IRRELEVANT = (
    *("batch_size", "tensor_parallel", "data_dir", "data_files", "allow_unsafe_code"),
    *("vllm_python", "self_score"),
)


@dataclass(frozen=True)
class ModelInfo:
    """Which model was scored; without lr and seed if talr has not trained it."""

    identity: str
    method: str
    lr: float | None = None
    seed: int | None = None


def scoring_identity(config: TrainConfig | EvalConfig) -> str:
    """A hash of what scores depend on besides the model: settings, rows, versions, own files."""
    settings: Any = {
        "suite": plain(config.suite),
        "domain": plain(config.domain),
        "dataset": scored_data(config.dataset),
        "versions": package_versions(),
    }
    for section in ("suite", "domain"):
        for key in _IRRELEVANT:
            settings[section].pop(key, None)
    if config.suite.drift:
        settings["drift"] = "over prompts spread evenly"  # earlier versions used the first prompts
    files = local_data_files(config.suite)
    suite = settings["suite"]
    if suite["task_dir"] not in (None, "mini"):
        files |= files_below(task_folder(suite["task_dir"]))
        suite["task_dir"] = "folder"
    # Left out if unused, so that scores from before these settings existed are found.
    for later in ("shots", "plain_text"):
        if not suite[later]:
            del suite[later]
    own = own_scorer(config.dataset)
    if own is not None:
        files["scorer"] = own
    return run_identity(settings, files)[:8]


def is_scored(config: TrainConfig | EvalConfig, results: Results | None) -> bool:
    """Whether these results are those that this config would give.

    If tasks were left out, this machine must leave out the same tasks.
    """
    if results is None or results["scoring"] != scoring_identity(config):
        return False
    missing = (results["general"] or {}).get("missing")
    if not missing:
        return True
    from talr_cli.evaluation.general.tasks import load_tasks

    return load_tasks(config.suite).missing.keys() == missing.keys()


def covers_more(results: Results | None, config: TrainConfig | EvalConfig) -> bool:
    """Whether these results cover more items than this config would score."""
    for part, limit in (("general", config.suite.limit), ("domain", config.domain.limit)):
        scored = (results or {}).get(part)
        if scored is not None and limit is not None:
            previous_limit = scored.get("limit")
            if previous_limit is None or previous_limit > limit:
                return True
    return False


def warn_of_replaced(
    config: TrainConfig | EvalConfig, directory: RunDirectory, results: Results | None
) -> None:
    """Warn if results in `directory` are replaced by scores that are measured in another way."""
    results = results or {}
    for part, key, value, current in (
        ("general", "suite", "suite", config.suite.name),
        ("domain", "answer_by", "domain.answer_by", config.domain.answer_by),
    ):
        previous = (results.get(part) or {}).get(key)
        if previous not in (None, current):
            log.warning(
                "the scores by %s=%s in %s are replaced by those by %s=%s: `talr eval ckpt=RUN "
                "apart=true` keeps both",
                *(value, previous, directory.path, value, current),
            )
    if results.get("drift") and not config.suite.drift:
        log.warning("the drift in %s will be removed: suite.drift=false", directory.path)


def is_based_on(base: ModelSource, directory: RunDirectory) -> bool:
    """Whether the model trained or scored in `directory` has this base, or no known one."""
    recorded = (directory.read_training() or {}).get("base")
    if recorded is None and (results := directory.read_results()) is not None:
        recorded = results["run"]["base"]
    return recorded in (None, base_id(base))


def base_id(base: ModelSource) -> str:
    """The id of a base model in results, by its content."""
    return hashlib.sha256(base.fingerprint.encode()).hexdigest()[:8]


def domain_rows(domain: DomainEvalConfig, splits: Splits) -> list[Example]:
    """The test rows that are scored.

    Raises:
        UserError: Answers are chosen by likelihood, and a row has no choices.
    """
    tests = sample_evenly(splits.test, domain.limit)
    if domain.answer_by == "likelihood":
        possible_completions(tests)
    return tests


def make_results(
    config: TrainConfig | EvalConfig,
    info: ModelInfo,
    base: ModelSource,
    checkpoint: ModelSource,
    directory: RunDirectory,
    scores: dict[str, Any],
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        base: The model that the checkpoint was tuned from, or the checkpoint itself.
        checkpoint: The model that was scored.
        scores: The return value of `evaluate`.
    """
    trained = directory.read_training() or {"weights": None, "training": None}
    for checked in ("base", "model"):
        trained.pop(checked, None)
    return {
        "schema": SCHEMA,
        "run": {
            "id": info.identity[:8],
            "study": config.study,
            "model": config.model.name,
            "base": base_id(base),
            "origin": base.origin,
            "dataset": config.dataset.name,
            "method": info.method,
            "lr": info.lr,
            "seed": info.seed,
            "checkpoint": str(checkpoint.directory),
        },
        "scoring": scoring_identity(config),
        **scores,
        **trained,
        "versions": package_versions(),
    }
