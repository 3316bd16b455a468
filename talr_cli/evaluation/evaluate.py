"""Checkpoint -> results: general ability, domain, drift. The same for `train` and `eval`."""

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
from talr_cli.evaluation.domain import DomainScore, answer_budget, evaluate_domain
from talr_cli.evaluation.domain_drift import answered_prompts
from talr_cli.evaluation.general.score_cache import ScoreCache
from talr_cli.evaluation.general.suite import evaluate_general, items_of
from talr_cli.evaluation.general.tasks import Tasks
from talr_cli.evaluation.generation import DRAWN_AT_ONCE, not_inherited, requests
from talr_cli.evaluation.memory import BatchSize, fits_twice, set_aside
from talr_cli.evaluation.vllm import Vllm
from talr_cli.models.adapter import content
from talr_cli.models.checks import positions
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

DRIFT_PROMPTS = 64  # of the suite, spread evenly over its tasks


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
        base: Where the model is stored that drift is measured from.
        tasks: Those of the suite.
        rows: The domain's test rows, checked against the model (see self_score.py).
        samples: The folder for what was asked and answered.
        scores: The study's folder of scores that need no second computation.
    """
    model = ready(model)
    asked = sum(items_of(task, suite) for task in tasks.loaded.values())
    drifted = min(asked, DRIFT_PROMPTS) if suite.drift else 0
    answered = len(rows) if scorer is not None else 0
    processes = ranks.world_size()
    results: dict[str, Any] = {"general": None, "domain": None, "drift": None}
    with progress.work("evaluation", total=asked + answered + drifted):
        if unused := not_inherited(model):
            log.info("answers are greedy: not used of the model's generation_config: %s", unused)
        budget = domain.max_new_tokens or (answer_budget(rows, renderer) if rows else 0)
        share = AllRanks(source, model_config)
        vllm = None
        if suite.backend == "vllm":
            vllm = Vllm(model, renderer, suite, source.directory, samples.with_name("vllm.log"))
            if scorer is not None and domain.answer_by == "generation":
                vllm.want(requests(model, renderer, rows, budget))

        log.info("evaluation: suite %s", suite.name)
        weights = content(source, model_config)
        kept = ScoreCache(scores, weights)
        general = evaluate_general(model, renderer, suite, tasks, kept, share, vllm)
        results["general"] = {**general.results, "processes": processes}
        for task, answers in general.samples.items():
            _write_samples(samples, f"general-{task}", answers)

        if scorer is not None and rows:
            log.info("evaluation: %d rows of the domain", len(rows))
            found = _domain(model, renderer, domain, rows, scorer, budget, share, vllm)
            results["domain"] = {**found.results, "limit": domain.limit, "processes": processes}
            _write_samples(samples, "domain", found.samples)
        else:
            log.info("evaluation: the domain has nothing to score")

        if suite.drift:
            is_base = weights == content(base, model_config)
            from_base = _Base(base, model_config, scores, is_base)
            prompts = _drift_prompts(general.prompts, renderer, positions(model.config.to_dict()))
            along = from_base.answers(model, renderer, rows, budget)
            with progress.share(drifted, label="drift"):
                results["drift"] = _drift(model, renderer, from_base, prompts, along)
    return results


def _domain(
    model: PreTrainedModel,
    renderer: Renderer,
    domain: DomainEvalConfig,
    rows: Sequence[Example],
    scorer: Scorer,
    budget: int,
    share: AllRanks,
    vllm: Vllm | None,
) -> DomainScore:
    """The domain's rows, answered and scored, as many at once as there is memory for."""
    asked_tokens = (len(renderer.prompt_ids(one.messages, one.tools)) for one in rows)
    size = BatchSize.of(domain.batch_size, model, max(asked_tokens) + budget)
    with progress.share(len(rows), label="domain"):
        return evaluate_domain(
            model, renderer, rows, scorer, budget, size.now, domain.answer_by, share, vllm
        )


@dataclass(frozen=True)
class _Base:
    """The model that drift is measured from; what it answers and predicts is kept in `scores`.

    Attributes:
        is_scored: It is the very model that is scored, so that nothing has to be loaded.
    """

    source: ModelSource
    model_config: ModelConfig
    scores: Path
    is_scored: bool

    def _ask(self, model: PreTrainedModel) -> drift.AskBase:
        """Who asks the base; `model`, the one scored, makes room for it."""
        if self.is_scored:
            return lambda work: work(model)
        load = partial(load_ready, self.source, self.model_config, model.device.type)
        return partial(_in_place_of, model, load)

    def answers(
        self, model: PreTrainedModel, renderer: Renderer, rows: Sequence[Example], budget: int
    ) -> tuple[list[list[int]], list[int]]:
        """Its answers to the domain's prompts, as `answered_prompts` returns them."""
        with progress.share(0, label="drift"):
            return answered_prompts(
                rows,
                renderer,
                model.config.to_dict(),
                budget,
                self.source.fingerprint,
                self.scores,
                self._ask(model),
                BatchSize(DRAWN_AT_ONCE),
            )

    def states(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
    ) -> drift.KeptStates | None:
        """Its hidden states over the prompts from `starts` on; None where it is the one scored."""
        if self.is_scored:
            return None
        read_by: dict[str, Any] = {
            "prompts": prompts,
            "dtype": str(model.dtype),
            "device": model.device.type,
        }
        if starts is not None:
            read_by["starts"] = starts
        identified = {"base": self.source.fingerprint, **read_by, "versions": package_versions()}
        file = self.scores / f"base-states-{run_identity(identified, {})[:16]}.safetensors"
        return drift.KeptStates(file, self.source.directory, self._ask(model))


def _drift_prompts(
    prompts: Sequence[tuple[str, bool]], renderer: Renderer, most: int | None
) -> list[list[int]]:
    """DRIFT_PROMPTS of the suite's prompts, spread evenly over its tasks, as token ids.

    One that is longer than `most` tokens loses its beginning, as in the harness.
    """
    return [
        # A template has written the special tokens itself.
        renderer.tokenizer(text, add_special_tokens=not templated).input_ids[-(most or 0) :]
        for text, templated in spread_evenly(prompts, DRIFT_PROMPTS)
    ]


def _drift(
    model: PreTrainedModel,
    renderer: Renderer,
    base: _Base,
    prompts: Sequence[Sequence[int]],
    along: tuple[Sequence[Sequence[int]], Sequence[int]],
) -> dict[str, Any]:
    """How far the model is from its base, on the suite's prompts and `along` the domain's.

    Args:
        along: As `answered_prompts` returns it.
    """

    def from_base(*over: Any) -> dict[str, Any]:
        with progress.share(1, of=2):
            return drift.kl_from_base(model, base.states(model, *over), *over)

    found = {
        "cross_entropy": drift.cross_entropy(model, renderer.tokenizer, drift.general_passages()),
        "kl_from_base": from_base(prompts),
    }
    if along[0]:
        found["domain_kl_from_base"] = from_base(*along)
    return found


def _in_place_of(
    model: PreTrainedModel, load: Callable[[], PreTrainedModel], work: Callable[[Any], Any]
) -> Any:
    """What `work` finds with another model; where the GPU cannot hold both, ours waits on the CPU.

    The other model must be gone when ours comes back: neither this function nor what was found may
    hold on to it.
    """
    with nullcontext() if fits_twice(model) else set_aside(model):
        return work(load())


def load_ready(source: ModelSource, model_config: ModelConfig, device: str) -> PreTrainedModel:
    """The model as `evaluate` answers with it."""
    return ready(load_model(source, model_config, "auto", device))


def ready(model: PreTrainedModel) -> PreTrainedModel:
    """In evaluation mode; half precision becomes fp32 where the device only emulates it.

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
