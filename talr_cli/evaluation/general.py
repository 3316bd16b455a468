"""General ability by lm-evaluation-harness, in this process, on the model already in memory.

Knows the harness's habits: batch size belongs to HFLM, it reseeds the random generators, switches
the model to eval mode and touches the tokenizer. All of that is put back.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.items import clustered_error, scored_items
from talr_cli.evaluation.mini import TASK_DIR

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


def evaluate_general(model: PreTrainedModel, renderer: Renderer, suite: DictConfig) -> GeneralScore:
    """Run the suite's tasks with the chat template, greedily; the score is their plain mean."""
    started = time.perf_counter()
    manager = _task_manager(suite.task_dir)
    unknown = [task for task in suite.tasks if task not in manager.all_tasks]
    if unknown:
        raise UserError(
            f"suite.tasks: lm-eval knows no {', '.join(unknown)}: `lm-eval ls tasks` lists them, "
            "suite.task_dir=DIRECTORY adds yours"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here
    with _state_kept(model, renderer):
        harness_model = HFLM(
            pretrained=model,
            tokenizer=renderer.tokenizer,
            batch_size=suite.batch_size,
            max_length=suite.max_length,
            chat_template_args=dict(renderer.arguments),
        )
        output = lm_eval.simple_evaluate(
            model=harness_model,
            tasks=list(suite.tasks),
            task_manager=manager,
            apply_chat_template=True,
            limit=suite.limit,
            bootstrap_iters=1000,
            log_samples=True,
        )
    if output is None:
        raise RuntimeError("lm-eval returned nothing: only its first rank reports")
    tasks = {name: _task_score(output, name, suite.metrics[name]) for name in suite.tasks}
    results = {
        **mean_of_tasks(list(tasks.values())),
        "formula": "mean of tasks",
        "suite": suite.name,
        "limit": suite.limit,
        "harness": {"name": "lm-eval", "version": metadata.version("lm-eval")},
        "tasks": tasks,
        "seconds": round(time.perf_counter() - started, 2),
    }
    samples = {name: output["samples"][name] for name in suite.tasks}
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


def _task_manager(task_dir: str | None) -> TaskManager:
    if task_dir is None:
        return TaskManager()
    if task_dir == "mini":
        return TaskManager(include_path=TASK_DIR, include_defaults=False)
    if not Path(task_dir).is_dir():
        raise UserError(f"suite.task_dir={task_dir} is not a directory")
    return TaskManager(include_path=task_dir)


def _task_score(output: Any, task: str, metric: str) -> dict[str, Any]:
    """One task's counting metric, and every other one beside it. `metric` is `name,filter`."""
    values = _with_errors(output["results"][task], output["samples"][task])
    key = metric if "," in metric else f"{metric},none"
    if key not in values:
        known = sorted(name for name in values if "," in name and "_stderr" not in name)
        raise UserError(f"suite.metrics.{task}={metric}: the task has {'; '.join(known)}")
    name, _, filter_name = key.partition(",")
    stderr = values.get(f"{name}_stderr,{filter_name}")
    samples = [one for one in output["samples"][task] if one["filter"] == filter_name]
    return {
        "metric": key,
        "score": values[key],
        "stderr": stderr if isinstance(stderr, float) else None,
        "n": output["n-samples"][task]["effective"],
        "version": output["versions"].get(task),
        **scored_items(
            [sample["doc_id"] for sample in samples],
            [sample.get(name) for sample in samples],
            [sample["doc_hash"] for sample in samples],
            values[key],
        ),
        "all": {
            name: value
            for name, value in values.items()
            if "," in name and isinstance(value, int | float)
        },
    }


def _with_errors(values: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The values, and the standard errors that lm-eval lacks, of metrics that are plain means.

    Such are IFEval's instruction-level accuracies, of several instructions in a document.
    """
    complete = dict(values)
    for key, score in values.items():
        name, _, filter_name = key.partition(",")
        logged = [one[name] for one in samples if one["filter"] == filter_name and name in one]
        items = [one if isinstance(one, list) else [one] for one in logged]
        error = f"{name}_stderr,{filter_name}"
        numbers = all(isinstance(value, int | float) for item in items for value in item)
        if isinstance(values.get(error), float) or not any(items) or not numbers:
            continue
        sums, counts = [sum(item) for item in items], [len(item) for item in items]
        if math.isclose(sum(sums) / sum(counts), score, abs_tol=1e-9):
            complete[error] = clustered_error(sums, counts)
    return complete


@contextmanager
def _state_kept(model: PreTrainedModel, renderer: Renderer) -> Iterator[None]:
    tokenizer = renderer.tokenizer
    training, pad, side = model.training, tokenizer.pad_token, tokenizer.padding_side
    random_state, numpy_state = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(random_state)
        np.random.set_state(numpy_state)
        tokenizer.pad_token, tokenizer.padding_side = pad, side
        model.train(training)
