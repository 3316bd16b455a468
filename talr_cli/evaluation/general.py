"""General ability by lm-evaluation-harness, in this process, on the model already in memory.

Knows the harness's habits: batch size belongs to HFLM, it reseeds the random generators, switches
the model to eval mode and touches the tokenizer. All of that is put back. Each task is a harness
run of its own, so that its scores do not depend on which others the suite has.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import lm_eval
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.code_eval import in_place_of_code_eval
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.tasks import Tasks, definition, generators_kept, load_tasks

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneralScore:
    """`results` is the `general` part of results.json, `samples` the harness's, by task.

    `prompts` are the texts that the model was given, templates applied.
    """

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    prompts: list[str]


def evaluate_general(
    model: PreTrainedModel,
    renderer: Renderer,
    suite: DictConfig,
    tasks: Tasks | None = None,
) -> GeneralScore:
    """Run the suite's tasks greedily; the score is their plain mean.

    Args:
        tasks: Those of the suite, where they are loaded already.
    """
    started = time.perf_counter()
    tasks = tasks or load_tasks(suite)
    records = {}
    for name, task in tasks.loaded.items():
        size = BatchSize.of(suite.batch_size, model.device.type)
        with _state_kept(model, renderer):
            harness_model = _harness_model(model, renderer, suite)
            records[name] = size.whole(
                lambda rows, task=task: run_task(harness_model(rows), task, suite)
            )
        records[name]["batch_size"] = size.now
    scores = {name: _task_score(record, suite.metrics[name]) for name, record in records.items()}
    results = {
        **mean_of_tasks(list(scores.values())),
        "formula": suite.formula,
        "suite": suite.name,
        "limit": suite.limit,
        "harness": {"name": "lm-eval", "version": metadata.version("lm-eval")},
        "tasks": scores,
        "missing": tasks.missing,
        "seconds": round(time.perf_counter() - started, 2),
    }
    samples = {name: record["samples"] for name, record in records.items()}
    prompts = [
        sample["arguments"][0][0] for rows in samples.values() for sample in _once_each(rows)
    ]
    return GeneralScore(results, samples, prompts)


def mean_of_tasks(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain mean of the task scores; its standard error takes the tasks as independent."""
    score = sum(task["score"] for task in tasks) / len(tasks)
    errors = [task["stderr"] for task in tasks]
    stderr = None
    if all(error is not None for error in errors):
        stderr = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return {"score": score, "stderr": stderr, "n": sum(task["n"] for task in tasks)}


def _once_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One sample per document: lm-eval lists a document once per filter."""
    return list({row["doc_id"]: row for row in rows}.values())


def run_task(harness_model: LM, task: Task, suite: DictConfig) -> dict[str, Any]:
    """One task from its prompts to its scores, as values that JSON knows.

    The harness generates every answer before it judges the first, so programs run at the end.
    """
    name = task.task_name
    with in_place_of_code_eval(suite.allow_unsafe_code):
        output = lm_eval.simple_evaluate(
            model=harness_model,
            tasks=[task],
            apply_chat_template=suite.chat_template,
            limit=suite.limit,
            bootstrap_iters=1000,
            log_samples=True,
            confirm_run_unsafe_code=True,
        )
    if output is None:
        raise RuntimeError("lm-eval returned nothing: only its first rank reports")
    record = {
        "definition": definition(task, suite.limit),
        "version": output["versions"].get(name),
        "n": output["n-samples"][name]["effective"],
        "values": {key: value for key, value in output["results"][name].items() if "," in key},
        "samples": output["samples"][name],
    }
    return json.loads(json.dumps(record, default=_plain))


def _task_score(record: dict[str, Any], metric: str) -> dict[str, Any]:
    """A task's counting metric, and every other one beside it. `metric` is `name,filter`."""
    values = record["values"]
    key = metric if "," in metric else f"{metric},none"
    if key not in values:
        known = sorted(name for name in values if "_stderr" not in name)
        raise UserError(f"suite.metrics: {metric}: the task has {'; '.join(known)}")
    name, _, filter_name = key.partition(",")
    stderr = values.get(f"{name}_stderr,{filter_name}")
    return {
        "metric": key,
        "score": values[key],
        "stderr": stderr if isinstance(stderr, float) else None,
        "n": record["n"],
        "version": record["version"],
        "definition": record["definition"],
        "batch_size": record["batch_size"],
        "all": {key: value for key, value in values.items() if isinstance(value, int | float)},
    }


def _harness_model(model: PreTrainedModel, renderer: Renderer, suite: DictConfig) -> Any:
    """Makes the harness's model for a number of rows at once."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    lengths = [length for length in (suite.max_length, positions) if length]

    def make(rows: int) -> HFLM:
        return HFLM(
            pretrained=model,
            tokenizer=renderer.tokenizer,
            batch_size=rows,
            max_length=min(lengths, default=None),
            chat_template_args=dict(renderer.arguments),
        )

    return make


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, anything else that JSON does not know as text."""
    return value.item() if hasattr(value, "item") else str(value)


@contextmanager
def _state_kept(model: PreTrainedModel, renderer: Renderer) -> Iterator[None]:
    tokenizer = renderer.tokenizer
    training, pad, side = model.training, tokenizer.pad_token, tokenizer.padding_side
    model.eval()
    try:
        with generators_kept():
            yield
    finally:
        tokenizer.pad_token, tokenizer.padding_side = pad, side
        model.train(training)
