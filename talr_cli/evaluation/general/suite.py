"""Scores general ability: every task of a suite on one model, and the mean of their scores.

Each task is a separate run of the harness, so that its scores do not depend on the other tasks of
the suite. Knows what identifies a score, and which backend answers; `harness.py` runs a task.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task
from transformers import PreTrainedModel

from talr_cli import progress
from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.data_parallel import Distribute, in_this_process
from talr_cli.evaluation.general.answering import is_greedy
from talr_cli.evaluation.general.groups import join_records
from talr_cli.evaluation.general.harness import (
    ExternalModel,
    SharedModel,
    collect_requests,
    longest_sequence,
    preserve_state,
    run_task,
)
from talr_cli.evaluation.general.score_cache import ScoreCache, read_record, write_record
from talr_cli.evaluation.general.tasks import Tasks, definition_hash, load_tasks
from talr_cli.evaluation.memory import TOKENS, BatchSize, explain_out_of_memory
from talr_cli.evaluation.vllm import Vllm
from talr_cli.runs.environment import package_versions
from talr_cli.statistics.items import clustered_error, scored_items

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneralScore:
    """The scores of a suite.

    Attributes:
        results: The `general` part of results.json.
        samples: {task: the harness's samples}.
        prompts: For each item (its prompt, whether a chat template made it).
    """

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    prompts: list[tuple[str, bool]]


def evaluate_general(
    model: PreTrainedModel,
    renderer: Renderer,
    suite: SuiteConfig,
    tasks: Tasks | None = None,
    cache: ScoreCache | None = None,
    distribute: Distribute = in_this_process,
    vllm: Vllm | None = None,
) -> GeneralScore:
    """Run the suite's tasks greedily; the score is their unweighted mean.

    Args:
        tasks: The tasks of the suite, if they are loaded already.
        cache: The cached scores of this checkpoint.
        distribute: Runs the model, in this process or on all ranks.
        vllm: Answers the tasks that generate instead.
    """
    started = time.perf_counter()
    tasks = tasks or load_tasks(suite)
    backends = {name: _backend(task, vllm) for name, task in tasks.loaded.items()}
    files: dict[str, Path] = {}
    if cache is not None:
        for name, task in tasks.loaded.items():
            shared = _score_settings(model, renderer, tasks.settings_of(name, suite))
            own = {**backends[name], "task": definition_hash(task, suite.limit)}
            files[name] = cache.file(name, {**shared, **own})
    records = _cached_records(files, tasks, suite)
    left = {
        name: (task, tasks.settings_of(name, suite))
        for name, task in tasks.loaded.items()
        if name not in records
    }
    for name, record in _run_tasks(model, renderer, left, distribute, vllm):
        records[name] = record
        if cache is not None:
            write_record(files[name], record)
    by_name = {
        name: join_records({member: records[member] for member in members})
        if members != [name]
        else records[name]
        for name, members in tasks.members.items()
    }
    scores = {
        name: {
            **_task_score(record, suite.metrics[name]),
            **backends[tasks.members[name][0]],
            "chat_template": tasks.settings_of(tasks.members[name][0], suite).chat_template,
        }
        for name, record in by_name.items()
    }
    _warn_of_scales(scores)
    results = {
        **mean_of_tasks(list(scores.values())),
        "formula": suite.formula,
        "suite": suite.name,
        "limit": suite.limit,
        "backend": "vllm" if any("vllm" in one for one in backends.values()) else "hf",
        "harness": {"name": "lm-eval", "version": metadata.version("lm-eval")},
        "tasks": scores,
        "missing": tasks.missing,
        "seconds": round(time.perf_counter() - started, 2),
    }
    samples = {name: record["samples"] for name, record in by_name.items()}
    prompts = [
        (sample["arguments"][0][0], scores[name]["chat_template"])
        for name, rows in samples.items()
        # lm-eval lists a document once per filter.
        for sample in {row["doc_id"]: row for row in rows}.values()
    ]
    return GeneralScore(results, samples, prompts)


def _cached_records(
    files: Mapping[str, Path], tasks: Tasks, suite: SuiteConfig
) -> dict[str, dict[str, Any]]:
    """{task: its record} of tasks in the cache; for the progress their items count as done."""
    found = {name: read_record(file) for name, file in files.items()}
    records = {name: record for name, record in found.items() if record is not None}
    for name in records:
        log.info("general: %s was scored before", name)
        with _progress(name, tasks.loaded[name], suite):
            pass
    return records


def _warn_of_scales(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Say which tasks outweigh the others in the mean: those that are not counted from 0 to 1."""
    found = [
        f"{name} ({task['metric'].partition(',')[0]} {task['score']:.3g})"
        for name, task in scores.items()
        if max(task["score"], *(task["items"] or {}).values(), 0) > 1
    ]
    if found and len(scores) > 1:
        log.warning(
            "general: %s goes beyond 1, so that the mean says little of the other tasks: make it a "
            "suite of its own",
            ", ".join(found),
        )


def mean_of_tasks(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The unweighted mean of the task scores; its standard error treats tasks as independent."""
    score = sum(task["score"] for task in tasks) / len(tasks)
    errors = [task["stderr"] for task in tasks]
    stderr = None
    if all(error is not None for error in errors):
        stderr = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return {"score": score, "stderr": stderr, "n": sum(task["n"] for task in tasks)}


def _backend(task: Task, vllm: Vllm | None) -> dict[str, str]:
    """The results' keys about which backend answers: vLLM only tasks that generate greedily."""
    greedy = task.OUTPUT_TYPE == "generate_until" and is_greedy(
        task.get_config("generation_kwargs")
    )
    if vllm is None or not greedy:
        return {"backend": "hf"}
    return {"backend": "vllm", "vllm": vllm.installation.version}


def count_items(task: Task, suite: SuiteConfig) -> int:
    """How many items of a task are scored."""
    count = len(getattr(task, "task_docs", None) or task.eval_docs)  # eval_docs is slow to compute
    return count if suite.limit is None else min(count, suite.limit)


def _progress(name: str, task: Task, suite: SuiteConfig) -> AbstractContextManager[None]:
    return progress.share(count_items(task, suite), label=name)


def _run_tasks(
    model: PreTrainedModel,
    renderer: Renderer,
    tasks: Mapping[str, tuple[Task, SuiteConfig]],
    distribute: Distribute,
    vllm: Vllm | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, record) of every task, as soon as it is scored.

    Args:
        tasks: {name: (task, the suite's settings for it)}.
    """
    by_vllm = [name for name, (task, _) in tasks.items() if "vllm" in _backend(task, vllm)]
    if vllm is not None:
        for name in by_vllm:
            task, suite = tasks[name]
            with preserve_state(model, renderer):
                vllm.announce(collect_requests(task, model, renderer, suite))
        for name in by_vllm:
            task, suite = tasks[name]
            with preserve_state(model, renderer), _progress(name, task, suite):
                record = run_task(ExternalModel(model, renderer, suite, vllm), task, suite)
            yield name, {**record, "batch_size": None}
    for name, (task, suite) in tasks.items():
        if name not in by_vllm:
            longest = longest_sequence(suite, model.config)
            size = BatchSize.of(suite.batch_size, model, suite.max_length or TOKENS)
            with (
                preserve_state(model, renderer),
                _progress(name, task, suite),
                explain_out_of_memory(
                    f"scoring {name} with one row at once",
                    model.device.type,
                    f"a suite.max_length below {longest}, which cuts longer prompts",
                    "a suite.tasks without it",
                ),
            ):
                shared = SharedModel(model, renderer, suite, size, distribute)
                record = run_task(shared, task, suite)
            yield name, {**record, "batch_size": size.current}


def _score_settings(
    model: PreTrainedModel, renderer: Renderer, suite: SuiteConfig
) -> dict[str, Any]:
    """All that a task's scores depend on besides the checkpoint and the task."""
    return {
        "answers": "greedy",  # whatever the model's generation_config says
        "chat_template": suite.chat_template,
        "template": renderer.tokenizer.chat_template,  # perhaps the user's own
        "template_arguments": dict(renderer.arguments),
        "max_length": longest_sequence(suite, model.config),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "versions": package_versions(),
    }


def _task_score(record: dict[str, Any], metric: str) -> dict[str, Any]:
    """The results of a task: its score by `metric` (`name,filter`), and all other metrics."""
    values = _add_stderrs(record["values"], record["samples"])
    key = metric if "," in metric else f"{metric},none"
    if key not in values:
        known = sorted(name for name in values if "_stderr" not in name)
        raise UserError(f"suite.metrics: {metric}: the task has {'; '.join(known)}")
    name, _, filter_name = key.partition(",")
    stderr = values.get(f"{name}_stderr,{filter_name}")
    samples = [one for one in record["samples"] if one["filter"] == filter_name]
    return {
        "metric": key,
        "score": values[key],
        "stderr": stderr if isinstance(stderr, float) else None,
        "n": record["n"],
        "version": record["version"],
        "definition": record["definition"],
        "batch_size": record["batch_size"],
        "prompts_cut": record.get("prompts_cut"),
        **scored_items(
            [sample["doc_id"] for sample in samples],
            [sample.get(name) for sample in samples],
            [sample["doc_hash"] for sample in samples],
            values[key],
            [sample.get("prompt_hash") for sample in samples],
        ),
        "all": {key: value for key, value in values.items() if isinstance(value, int | float)},
    }


def _add_stderrs(values: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Add the standard errors that lm-eval leaves out although a metric is a plain mean.

    An example are IFEval's instruction-level accuracies, where a document has several instructions.
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
