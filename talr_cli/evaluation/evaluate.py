"""Scores a checkpoint: general ability, domain and drift. The same for `train` and `eval`.

Knows in which order these are done and where samples and scores are kept; does not know which
method made the checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from talr_cli import progress, ranks
from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.data.splitting import spread_evenly
from talr_cli.evaluation import drift
from talr_cli.evaluation.config import DomainEvalConfig, SuiteConfig
from talr_cli.evaluation.data_parallel import AllRanks
from talr_cli.evaluation.domain import answer_budget, evaluate_domain
from talr_cli.evaluation.domain_drift import prompts_with_base_answers
from talr_cli.evaluation.general.score_cache import ScoreCache
from talr_cli.evaluation.general.suite import count_items, evaluate_general
from talr_cli.evaluation.general.tasks import Tasks
from talr_cli.evaluation.generation import ignored_settings, make_requests
from talr_cli.evaluation.memory import (
    BatchSize,
    explain_out_of_memory,
    has_room_for_another,
    moved_to_cpu,
)
from talr_cli.evaluation.vllm import Vllm
from talr_cli.models.adapter import weights_identity
from talr_cli.models.checks import max_positions
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import bf16_is_fast, load_model
from talr_cli.models.settings import without_router_loss
from talr_cli.models.sources import ModelSource
from talr_cli.runs.atomic import write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.environment import package_versions
from talr_cli.runs.identity import run_identity
from talr_cli.scorers.base import Scorer

log = logging.getLogger(__name__)

DRIFT_PROMPTS = 64  # how many of the suite's prompts drift is measured on


def evaluate(
    model: PreTrainedModel,
    renderer: Renderer,
    *,
    source: ModelSource,
    base: ModelSource,
    model_config: ModelConfig,
    suite: SuiteConfig,
    tasks: Tasks,
    domain: DomainEvalConfig,
    rows: Sequence[Example],
    scorer: Scorer | None,
    samples: Path,
    scores: Path,
) -> dict[str, Any]:
    """Score `model` as it is stored; writes samples, returns the parts of results.json.

    Args:
        model: In the dtype of its checkpoint.
        source: Where `model` is stored.
        base: Where the base is stored, from which drift is measured.
        tasks: The loaded tasks of the suite.
        rows: The domain's test rows, which have been checked by self_score.py.
        samples: The folder for samples.
        scores: The study's folder of cached scores.
    """
    model = prepare_to_score(model)
    asked = sum(count_items(task, suite) for task in tasks.loaded.values())
    drifted = min(asked, DRIFT_PROMPTS) if suite.drift else 0
    answered = len(rows) if scorer is not None else 0
    processes = ranks.world_size()
    results: dict[str, Any] = {"general": None, "domain": None, "drift": None}
    with progress.work("evaluation", total=asked + answered + drifted):
        if unused := ignored_settings(model):
            log.info("answers are greedy: not used of the model's generation_config: %s", unused)
        budget = domain.max_new_tokens or (answer_budget(rows, renderer) if rows else 0)
        distribute = AllRanks(source, model_config)
        vllm = None
        if suite.backend == "vllm":
            vllm = Vllm(model, renderer, suite, source.directory, samples.with_name("vllm.log"))
            if scorer is not None and domain.answer_by == "generation":
                vllm.announce(make_requests(model, renderer, rows, budget))

        log.info("evaluation: suite %s", suite.name)
        weights = weights_identity(source, model_config)
        kept = ScoreCache(scores, weights)
        general = evaluate_general(model, renderer, suite, tasks, kept, distribute, vllm)
        results["general"] = {**general.results, "processes": processes}
        for task, answers in general.samples.items():
            _write_samples(samples, f"general-{task}", answers)

        if scorer is not None and rows:
            log.info("evaluation: %d rows of the domain", len(rows))
            longest = max(len(renderer.prompt_ids(one.messages, one.tools)) for one in rows)
            size = BatchSize.of(domain.batch_size, model, longest + budget).current
            ways = [f"test rows with shorter prompts than the longest, of {longest} tokens"]
            if domain.answer_by == "generation":
                ways.insert(0, f"a domain.max_new_tokens below {budget}")
            work = "answering the domain's rows one at a time"
            with (
                progress.share(len(rows), label="domain"),
                explain_out_of_memory(work, model.device.type, *ways),
            ):
                found = evaluate_domain(
                    model, renderer, rows, scorer, budget, size, domain.answer_by, distribute, vllm
                )
            results["domain"] = {**found.results, "limit": domain.limit, "processes": processes}
            _write_samples(samples, "domain", found.samples)
        else:
            log.info("evaluation: the domain has nothing to score")

        if suite.drift:
            is_base = weights == weights_identity(base, model_config)
            from_base = _Base(model, base, model_config, scores, is_base)
            most = max_positions(model.config.to_dict())
            prompts = _drift_prompts(general.prompts, renderer, most)
            without = "suite.drift=false, which changes no score"
            with explain_out_of_memory("measuring the drift", model.device.type, without):
                along = from_base.answers(renderer, rows, budget)
                with progress.share(drifted, label="drift"):
                    results["drift"] = _measure_drift(renderer, from_base, prompts, along)
    return results


@dataclass(frozen=True)
class _Base:
    """The model that drift is measured from; its answers and states are cached in `scores`.

    Attributes:
        scored: The model that is scored, which makes room for it in memory.
        is_scored: Whether it is itself that model.
    """

    scored: PreTrainedModel
    source: ModelSource
    model_config: ModelConfig
    scores: Path
    is_scored: bool

    @property
    def _ask(self) -> drift.AskBase:
        """Calls functions with the base."""
        if self.is_scored:
            return lambda work: work(self.scored)
        load = partial(load_to_score, self.source, self.model_config, self.scored.device.type)
        return partial(_run_with_other_model, self.scored, load)

    def answers(
        self, renderer: Renderer, rows: Sequence[Example], budget: int
    ) -> tuple[list[list[int]], list[int]]:
        """Its answers to the domain's prompts; see `prompts_with_base_answers`."""
        with progress.share(0, label="drift"):
            return prompts_with_base_answers(
                rows,
                renderer,
                self.scored.config.to_dict(),
                budget,
                self.source.fingerprint,
                self.scores,
                self._ask,
            )

    def states(
        self, prompts: Sequence[Sequence[int]], starts: Sequence[int] | None = None
    ) -> drift.CachedStates | None:
        """Its hidden states on the prompts from `starts` on; None if it is the scored model."""
        if self.is_scored:
            return None
        read_by: dict[str, Any] = {
            "prompts": prompts,
            "dtype": str(self.scored.dtype),
            "device": self.scored.device.type,
        }
        if starts is not None:
            read_by["starts"] = starts
        identified = {"base": self.source.fingerprint, **read_by, "versions": package_versions()}
        file = self.scores / f"base-states-{run_identity(identified, {})[:16]}.safetensors"
        return drift.CachedStates(file, self.source.directory, self._ask)


def _drift_prompts(
    prompts: Sequence[tuple[str, bool]], renderer: Renderer, most: int | None
) -> list[list[int]]:
    """DRIFT_PROMPTS of the suite's prompts, spread evenly over its tasks, as token ids.

    As in the harness, a prompt that is longer than `most` tokens loses its beginning, and one
    without text is the token that begins a text, or else the one that ends it.
    """
    tokenizer = renderer.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    found = (
        # A chat template has written the special tokens already.
        tokenizer(text, add_special_tokens=not templated).input_ids or [begin]
        for text, templated in spread_evenly(prompts, DRIFT_PROMPTS)
    )
    return [ids[-(most or 0) :] for ids in found]


def _measure_drift(
    renderer: Renderer,
    base: _Base,
    prompts: Sequence[Sequence[int]],
    along: tuple[Sequence[Sequence[int]], Sequence[int]],
) -> dict[str, Any]:
    """The `drift` part of results.json.

    Args:
        prompts: Token ids of the suite's prompts.
        along: The domain's prompts with answers, as `prompts_with_base_answers` returns them.
    """

    def from_base(*over: Any) -> dict[str, Any]:
        with progress.share(1, of=2):
            return drift.kl_from_base(base.scored, base.states(*over), *over)

    passages = drift.general_passages()
    found = {
        "cross_entropy": drift.cross_entropy(base.scored, renderer.tokenizer, passages),
        "kl_from_base": from_base(prompts),
    }
    if along[0]:
        found["domain_kl_from_base"] = from_base(*along)
    return found


def _run_with_other_model(
    model: PreTrainedModel, load: Callable[[], PreTrainedModel], work: Callable[[Any], Any]
) -> Any:
    """Call `work` with another model; if the GPU cannot hold both, `model` waits on the CPU.

    The other model must be freed before `model` returns to the GPU. So neither this function nor
    the result may keep a reference to it.
    """
    with nullcontext() if has_room_for_another(model) else moved_to_cpu(model):
        return work(load())


def load_to_score(source: ModelSource, model_config: ModelConfig, device: str) -> PreTrainedModel:
    """Load a model in the form in which `evaluate` scores it."""
    return prepare_to_score(load_model(source, model_config, "auto", device))


def prepare_to_score(model: PreTrainedModel) -> PreTrainedModel:
    """Put a model into eval mode, in fp32 if the device only emulates its half precision.

    The weights keep the values of the checkpoint either way.
    """
    device = model.device.type
    emulated = model.dtype == torch.bfloat16 and not bf16_is_fast(device)
    if emulated or (model.dtype == torch.float16 and device == "cpu"):
        model = model.float()
    return without_router_loss(model).eval()


def _write_samples(folder: Path, name: str, samples: list[dict[str, Any]]) -> None:
    make_folder(folder)
    lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
    write_text(folder / f"{name}.jsonl", "".join(lines))
