"""Checkpoint -> results: general ability, domain, drift. The same for `train` and `eval`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from talr_cli import ranks
from talr_cli.data.base import Splits
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation import drift
from talr_cli.evaluation.data_parallel import AllRanks
from talr_cli.evaluation.domain import answer_budget, evaluate_domain
from talr_cli.evaluation.general.harness import evaluate_general
from talr_cli.evaluation.general.score_cache import ScoreCache
from talr_cli.evaluation.general.tasks import Tasks
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.loading import bf16_is_fast, load_model
from talr_cli.models.sources import ModelSource, content
from talr_cli.run.record import domain_rows
from talr_cli.runs.atomic import write_text
from talr_cli.runs.run_directory import RunDirectory, study_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

DRIFT_PROMPTS = 64  # of the suite, spread evenly over its tasks


def evaluate(
    config: DictConfig,
    model: PreTrainedModel,
    renderer: Renderer,
    splits: Splits,
    load_base: Callable[[], PreTrainedModel],
    directory: RunDirectory,
    source: ModelSource,
    tasks: Tasks,
) -> dict[str, Any]:
    """Score `model` as it is stored; writes samples/, returns the parts of results.json.

    Args:
        model: In the dtype of its checkpoint.
        load_base: Loads the base model, for the KL divergence; called once, when it is needed.
        source: Where `model` is stored.
        tasks: Those of the suite.
    """
    model = ready(model)
    processes = ranks.world_size()
    results: dict[str, Any] = {"general": None, "domain": None, "drift": None}
    log.info("evaluation: suite %s", config.suite.name)
    cache = ScoreCache(
        study_path(Path(config.runs_dir), config.study) / "scores", content(source, config.model)
    )
    share = AllRanks.of(source, config.model)
    general = evaluate_general(model, renderer, config.suite, tasks, source.directory, cache, share)
    results["general"] = {**general.results, "processes": processes}
    for task, samples in general.samples.items():
        _write_samples(directory, f"general-{task}", samples)
    tests = domain_rows(config, splits)
    if splits.scorer is not None and tests:
        log.info("evaluation: %d rows of %s", len(tests), config.dataset.name)
        budget = config.domain.max_new_tokens or answer_budget(tests, renderer)
        domain = evaluate_domain(
            model,
            renderer,
            tests,
            splits.scorer,
            budget,
            BatchSize.of(config.domain.batch_size, model.device.type).now,
            config.domain.answer_by,
            share,
        )
        results["domain"] = {
            **domain.results,
            "limit": config.domain.limit,
            "processes": processes,
        }
        _write_samples(directory, "domain", domain.samples)
    else:
        log.info("evaluation: %s has nothing to score", config.dataset.name)
    if config.suite.drift:
        step = max(1, len(general.prompts) // DRIFT_PROMPTS)
        prompts = [
            # The template has written the special tokens itself.
            renderer.tokenizer(text, add_special_tokens=not config.suite.chat_template).input_ids
            for text in general.prompts[::step][:DRIFT_PROMPTS]
        ]
        results["drift"] = {
            "cross_entropy": drift.cross_entropy(
                model, renderer.tokenizer, drift.general_passages()
            ),
            "kl_from_base": drift.kl_from_base(model, ready(load_base()), prompts),
        }
    return results


def load_ready(source: ModelSource, config: DictConfig, device: str) -> PreTrainedModel:
    """The model as `evaluate` answers with it; `config` is the model's."""
    return ready(load_model(source, config, "auto", device))


def ready(model: PreTrainedModel) -> PreTrainedModel:
    """In evaluation mode; half precision becomes fp32 where the device only emulates it.

    The weights keep the values of the checkpoint either way.
    """
    device = model.device.type
    emulated = model.dtype == torch.bfloat16 and not bf16_is_fast(device)
    if emulated or (model.dtype == torch.float16 and device == "cpu"):
        model = model.float()
    return model.eval()


def _write_samples(directory: RunDirectory, name: str, samples: list[dict[str, Any]]) -> None:
    directory.samples.mkdir(exist_ok=True)
    lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
    write_text(directory.samples / f"{name}.jsonl", "".join(lines))
