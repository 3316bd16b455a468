"""Checkpoint -> results: general ability, domain, drift. The same for `train` and `eval`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from talr_cli import ranks
from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation import drift
from talr_cli.evaluation.config import DomainEvalConfig, SuiteConfig
from talr_cli.evaluation.data_parallel import AllRanks
from talr_cli.evaluation.domain import answer_budget, evaluate_domain
from talr_cli.evaluation.general.score_cache import ScoreCache
from talr_cli.evaluation.general.suite import evaluate_general
from talr_cli.evaluation.general.tasks import Tasks
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import bf16_is_fast, load_model
from talr_cli.models.sources import ModelSource, content
from talr_cli.runs.atomic import write_text
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.scorers.base import Scorer

log = logging.getLogger(__name__)

DRIFT_PROMPTS = 64  # of the suite, spread evenly over its tasks


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory, in the dtype of its checkpoint, and where it is stored."""

    model: PreTrainedModel
    renderer: Renderer
    source: ModelSource
    config: ModelConfig


@dataclass(frozen=True)
class Questions:
    """What it is asked: the suite's tasks, and the domain's test rows."""

    suite: SuiteConfig
    tasks: Tasks
    domain: DomainEvalConfig
    tests: Sequence[Example]
    scorer: Scorer | None


def evaluate(
    checkpoint: Checkpoint,
    questions: Questions,
    load_base: Callable[[], PreTrainedModel],
    directory: RunDirectory,
    scores: Path,
) -> dict[str, Any]:
    """Score a model as it is stored; writes samples/, returns the parts of results.json.

    Args:
        load_base: Loads the base model, for the KL divergence; called once, when it is needed.
        scores: The study's folder of scores that need no second computation.
    """
    model, renderer, source = ready(checkpoint.model), checkpoint.renderer, checkpoint.source
    suite, domain = questions.suite, questions.domain
    processes = ranks.world_size()
    results: dict[str, Any] = {"general": None, "domain": None, "drift": None}
    log.info("evaluation: suite %s", suite.name)
    cache = ScoreCache(scores, content(source, checkpoint.config))
    share = AllRanks(source, checkpoint.config)
    general = evaluate_general(
        model, renderer, suite, questions.tasks, source.directory, cache, share
    )
    results["general"] = {**general.results, "processes": processes}
    for task, samples in general.samples.items():
        _write_samples(directory, f"general-{task}", samples)
    if questions.scorer is not None and questions.tests:
        log.info("evaluation: %d test rows", len(questions.tests))
        budget = domain.max_new_tokens or answer_budget(questions.tests, renderer)
        answered = evaluate_domain(
            model,
            renderer,
            questions.tests,
            questions.scorer,
            budget,
            BatchSize.of(domain.batch_size, model.device.type).now,
            domain.answer_by,
            share,
        )
        results["domain"] = {**answered.results, "limit": domain.limit, "processes": processes}
        _write_samples(directory, "domain", answered.samples)
    else:
        log.info("evaluation: the data set has nothing to score")
    if suite.drift:
        step = max(1, len(general.prompts) // DRIFT_PROMPTS)
        prompts = [
            # The template has written the special tokens itself.
            renderer.tokenizer(text, add_special_tokens=not suite.chat_template).input_ids
            for text in general.prompts[::step][:DRIFT_PROMPTS]
        ]
        results["drift"] = {
            "cross_entropy": drift.cross_entropy(
                model, renderer.tokenizer, drift.general_passages()
            ),
            "kl_from_base": drift.kl_from_base(model, ready(load_base()), prompts),
        }
    return results


def load_ready(source: ModelSource, config: ModelConfig, device: str) -> PreTrainedModel:
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
