"""Runs one task of lm-evaluation-harness in this process, on a model in memory.

Knows the harness's side effects: it reseeds the random generators, switches the model to eval mode
and changes the tokenizer, all of which is undone. Does not know the other tasks of the suite.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, groupby
from typing import Any

import lm_eval
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.data_parallel import Distribute
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.general.answering import Answering, Generate
from talr_cli.evaluation.general.tasks import definition_hash, preserve_rng_state
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.sandbox.code_eval import sandboxed_code_eval

log = logging.getLogger(__name__)

lm_eval.api.task.tqdm = partial(tqdm, disable=True)  # the evaluation has its own progress bar
# It would fork this process, which holds a model, once for each core, to resample in one of them.
os.environ.setdefault("DISABLE_MULTIPROC", "1")


def run_task(harness_model: HarnessModel, task: Task, suite: SuiteConfig) -> dict[str, Any]:
    """Answer and score a task; gives its record, which can be written as JSON.

    The harness generates all answers before it scores the first, so programs run at the end.
    """
    name = task.task_name
    definition = definition_hash(task, suite.limit)
    # The same as `simple_evaluate` does before it calls `evaluate`. That would also list the
    # machine's packages and devices in every call, which takes seconds.
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    task.set_fewshot_seed(seed=1234)
    with sandboxed_code_eval(suite.allow_unsafe_code):
        output = lm_eval.evaluate(
            lm=harness_model,
            task_dict={"tasks": {name: task}},
            limit=suite.limit,
            bootstrap_iters=1000,
            log_samples=True,
            apply_chat_template=suite.chat_template,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=True,
        )
    assert output is not None  # which it gives on all ranks but its first
    if harness_model.prompts_cut:
        log.warning(
            "%s: %d prompts have lost their beginning: with their answers they are longer than the "
            "%d tokens that the model takes",
            *(name, harness_model.prompts_cut, harness_model.max_length),
        )
    record = {
        "definition": definition,
        "version": output["versions"].get(name),
        "n": output["n-samples"][name]["effective"],
        "values": {key: value for key, value in output["results"][name].items() if "," in key},
        "samples": output["samples"][name],
        "prompts_cut": harness_model.prompts_cut,
    }
    return json.loads(json.dumps(record, default=_to_json))


class HarnessModel(HFLM):
    """A model as the harness calls it.

    Attributes:
        prompts_cut: How many prompts have lost their beginning, to leave room for the answer.
    """

    def __init__(self, model: PreTrainedModel, renderer: Renderer, suite: SuiteConfig) -> None:
        self.prompts_cut = 0
        self._renderer = renderer
        self._settings = {
            "max_length": longest_sequence(suite, model.config),
            "chat_template_args": dict(renderer.arguments),
        }
        super().__init__(model, tokenizer=renderer.tokenizer, **self._settings)

    def _check_room(self, requests: Sequence[Instance]) -> None:
        """Count the prompts that the harness will cut, which it does silently.

        Raises:
            UserError: Nothing would be left of a prompt.
        """
        texts = [request.args[0] for request in requests]
        for text, request in zip(texts, requests, strict=True):
            budget = normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if budget >= self.max_length:
                raise UserError(
                    f"{request.task_name} asks for answers of up to {budget} tokens, and a prompt "
                    f"with its answer may have {self.max_length} here: leave it out of "
                    "suite.tasks, or use a model with more positions or a larger suite.max_length"
                )
            self.prompts_cut += self._is_longer(text, self.max_length - budget)

    def _is_longer(self, text: str, tokens: int) -> bool:
        # Every token is at least one byte, except for a few that are added around a text.
        return len(text.encode()) + 16 > tokens and len(self.tok_encode(text)) > tokens


class SharedModel(HarnessModel):
    """A model in memory, perhaps in several processes that share the work."""

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        suite: SuiteConfig,
        size: BatchSize,
        distribute: Distribute,
    ) -> None:
        super().__init__(model, renderer, suite)
        self._size, self._distribute = size, distribute

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._check_room(requests)
        return self._answers("generate_until", requests)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        texts = ("".join(request.args) for request in requests)
        self.prompts_cut += sum(self._is_longer(text, self.max_length + 1) for text in texts)
        return self._answers("loglikelihood", requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def _answers(self, kind: str, requests: list[Instance]) -> list[Any]:
        # The requests of a document stay together, so that its context is read once.
        documents = [list(group) for _, group in groupby(requests, key=lambda one: one.doc_id)]
        work = partial(_answer_documents, kind=kind, size=self._size, settings=self._settings)
        answers = self._distribute(work, self.model, self._renderer, documents)
        return list(chain.from_iterable(answers))


class ExternalModel(HarnessModel):
    """A model that runs in another process (vLLM), for tasks that generate."""

    def __init__(
        self, model: PreTrainedModel, renderer: Renderer, suite: SuiteConfig, generate: Generate
    ) -> None:
        super().__init__(model, renderer, suite)
        self._generate = generate

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._check_room(requests)
        # One batch of all requests, so that vLLM gets all of them at once.
        own = Answering(self.model, self._renderer, len(requests), self._generate, **self._settings)
        return own.generate_until(requests, disable_tqdm=True)


class _AskedError(Exception):
    """Ends a run of the harness once its requests are known."""


def collect_requests(
    task: Task, model: PreTrainedModel, renderer: Renderer, suite: SuiteConfig
) -> list[Request]:
    """The requests of a task that generates; the harness is run only until it makes them."""
    asked: list[Request] = []

    def generate(requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
        asked.extend(requests)
        return [([], False)] * len(requests)

    class Asked(ExternalModel):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            super().generate_until(requests)
            raise _AskedError

    with suppress(_AskedError):
        run_task(Asked(model, renderer, suite, generate), task, suite)
    return asked


def _answer_documents(
    model: PreTrainedModel,
    renderer: Renderer,
    documents: Sequence[list[Instance]],
    kind: str,
    size: BatchSize,
    settings: dict[str, Any],
) -> list[list[Any]]:
    """The answers to the harness's requests for each document."""
    requests = list(chain.from_iterable(documents))

    def run(rows: int) -> list[Any]:
        own = Answering(model, renderer, rows, **settings)
        return getattr(own, kind)(requests, disable_tqdm=True)

    answers = iter(size.retrying(run) if requests else [])
    return [[next(answers) for _ in document] for document in documents]


def longest_sequence(suite: SuiteConfig, model_config: PretrainedConfig) -> int | None:
    """The most tokens of prompt and answer: suite.max_length, or fewer if the model takes fewer."""
    positions = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return min((length for length in (suite.max_length, positions) if length), default=None)


def _to_json(value: Any) -> Any:
    """Convert what JSON does not know: numpy's values to Python's, anything else to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def preserve_state(model: PreTrainedModel, renderer: Renderer) -> Iterator[None]:
    """Put the model into eval mode for a while; restore it, the tokenizer and random states."""
    tokenizer = renderer.tokenizer
    training, pad, side = model.training, tokenizer.pad_token, tokenizer.padding_side
    model.eval()
    try:
        with preserve_rng_state():
            yield
    finally:
        tokenizer.pad_token, tokenizer.padding_side = pad, side
        model.train(training)
