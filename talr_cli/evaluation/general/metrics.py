"""Checks before any model answers that a task has what the suite asks of it.

Knows tasks of the harness; does not know answers or scores.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.api.task import ConfigurableTask, Task

from talr_cli.errors import UserError


def require_shots(task: Task) -> None:
    """Refuse more examples than there are to show."""
    number: int | None = task.get_config("num_fewshot")
    sampler: Any = getattr(task, "sampler", None)
    if not number or type(sampler) not in (ContextSampler, FirstNSampler):
        return  # of a sampler of the task's own it is not known where examples come from
    # Where examples come from what is scored, the item itself is none.
    is_among = task.fewshot_cfg.split == task.config.test_split
    there = len(sampler.fewshot_docs()) - is_among
    if number > there:
        raise UserError(
            f"suite.shots: {task.task_name} is to show {number} examples, and there are {there}"
        )


def require_metric(task: Task, metric: str) -> None:
    """Refuse a metric that the task does not have, or for which lower values are better.

    Raises:
        UserError: Names the metrics that the task has.
    """
    name, _, filter_name = metric.partition(",")
    filters = [one.name for one in getattr(task, "_filters", [])]
    names = [*task.aggregation()]
    is_there = name in names
    if not is_there and not _lists_all_metrics(task):
        given = _given(task)
        names += sorted(given - {*names})
        is_there = name in given or not given
    no_filter = filters and (filter_name or "none") not in filters
    if no_filter or not is_there:
        known = "; ".join(f"{each},{one}" for one in filters for each in names)
        raise UserError(f"suite.metrics: {metric}: {task.task_name} has {known}")
    if task.higher_is_better().get(name) is False:
        # In the mean, a perplexity would count forgetting as a gain.
        raise UserError(
            f"suite.metrics: {name} of {task.task_name} is the better the lower it is, and the "
            "general score is a mean of what is the better the higher: name another metric, or "
            f"leave {task.task_name} out (drift.cross_entropy is measured in any case)"
        )


def _lists_all_metrics(task: Task) -> bool:
    """Whether all metrics of a task are in its list.

    A task's own function may return more, and so may a metric of generated texts that is not one of
    the harness's.
    """
    is_own = type(task).process_results is not ConfigurableTask.process_results
    if is_own or callable(task.config.process_results):
        return False
    metrics = getattr(task, "_metric_fn_list", {}).values()
    return task.OUTPUT_TYPE != "generate_until" or all(
        getattr(one, "__module__", "") == "lm_eval.api.metrics" for one in metrics
    )


def _given(task: Task) -> set[str]:
    """The metrics that a task gives of made-up answers to its first item; none where it fails."""
    of_kind: dict[Any, Any] = {"generate_until": "", "loglikelihood_rolling": -1.0}
    answer = of_kind.get(task.OUTPUT_TYPE, (-1.0, False))
    try:
        item = next(iter(task.eval_docs))
        asked = task.construct_requests(doc=item, ctx="", metadata=(task.task_name, 0, 1))
        requests = asked if isinstance(asked, list) else [asked]
        for request in requests:
            request.resps = [answer]
        for ensemble in task._filters:
            ensemble.apply(requests)
        return {
            metric
            for key in requests[0].filtered_resps
            for metric in task.process_results(item, [one.filtered_resps[key] for one in requests])
        }
    except Exception:  # its functions are others' code: what answers it takes is not known
        return set()
