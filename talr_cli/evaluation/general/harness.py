"""One task through lm-evaluation-harness, in this process, on a model already in memory.

Knows the harness's habits: batch size belongs to HFLM, it reseeds the random generators, switches
the model to eval mode and touches the tokenizer. All of that is put back. Does not know the suite
that a task belongs to.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby
from typing import Any

import lm_eval
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from talr_cli import ranks
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.data_parallel import Share
from talr_cli.evaluation.general.answering import Answering
from talr_cli.evaluation.general.tasks import definition, generators_kept
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.sandbox.code_eval import in_place_of_code_eval

# Its bar over the prompts is for those who watch: none where stderr is a file.
lm_eval.api.task.tqdm = partial(tqdm, disable=None)


def run_task(harness_model: LM, task: Task, suite: SuiteConfig) -> dict[str, Any]:
    """One task from its prompts to its scores, as values that JSON knows.

    The harness generates every answer before it judges the first, so programs run at the end.
    """
    name = task.task_name
    made_of = definition(task, suite.limit)
    # What `simple_evaluate` does before it calls `evaluate`; it also spends seconds on listing
    # the machine's packages and devices for each call.
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    task.set_fewshot_seed(seed=1234)
    with in_place_of_code_eval(suite.allow_unsafe_code):
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
    if output is None:
        raise RuntimeError("lm-eval returned nothing: only its first rank reports")
    record = {
        "definition": made_of,
        "version": output["versions"].get(name),
        "n": output["n-samples"][name]["effective"],
        "values": {key: value for key, value in output["results"][name].items() if "," in key},
        "samples": output["samples"][name],
    }
    return json.loads(json.dumps(record, default=_plain))


class SharedModel(HFLM):
    """A model in memory for the harness; several processes may hold it and take part."""

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        suite: SuiteConfig,
        size: BatchSize,
        share: Share,
    ) -> None:
        self._renderer, self._size, self._share = renderer, size, share
        self._settings = {
            "max_length": longest_sequence(suite, model.config),
            "chat_template_args": dict(renderer.arguments),
        }
        super().__init__(model, tokenizer=renderer.tokenizer, **self._settings)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._answers("generate_until", requests)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return self._answers("loglikelihood", requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def _answers(self, kind: str, requests: list[Instance]) -> list[Any]:
        # The choices of a document stay together: HFLM may answer them in one forward pass.
        documents = [list(group) for _, group in groupby(requests, key=lambda one: one.doc_id)]
        work = partial(_answer, kind=kind, size=self._size, settings=self._settings)
        answers = self._share(work, self.model, self._renderer, documents)
        return list(chain.from_iterable(answers))


def _answer(
    model: PreTrainedModel,
    renderer: Renderer,
    documents: Sequence[list[Instance]],
    kind: str,
    size: BatchSize,
    settings: dict[str, Any],
) -> list[list[Any]]:
    """The harness's answers to the requests of each document."""
    requests = list(chain.from_iterable(documents))

    def run(rows: int) -> list[Any]:
        own = Answering(model, renderer, rows, **settings)
        shown = sys.stderr.isatty() and ranks.is_main()
        return getattr(own, kind)(requests, disable_tqdm=not shown)

    answers = iter(size.whole(run) if requests else [])
    return [[next(answers) for _ in document] for document in documents]


def longest_sequence(suite: SuiteConfig, model_config: PretrainedConfig) -> int | None:
    """Tokens of prompt and answer: `suite.max_length`, or fewer where the model takes fewer."""
    positions = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return min((length for length in (suite.max_length, positions) if length), default=None)


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, anything else that JSON does not know as text."""
    return value.item() if hasattr(value, "item") else str(value)


@contextmanager
def state_kept(model: PreTrainedModel, renderer: Renderer) -> Iterator[None]:
    """The harness switches the model to eval mode and touches the tokenizer: all is put back."""
    tokenizer = renderer.tokenizer
    training, pad, side = model.training, tokenizer.pad_token, tokenizer.padding_side
    model.eval()
    try:
        with generators_kept():
            yield
    finally:
        tokenizer.pad_token, tokenizer.padding_side = pad, side
        model.train(training)
