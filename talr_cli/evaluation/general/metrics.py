"""Checks before any model answers that a task has the metric that the suite names for it.

Knows tasks of the harness; does not know answers or scores.
"""

from __future__ import annotations

from lm_eval.api.task import ConfigurableTask, Task

from talr_cli.errors import UserError


def require_metric(task: Task, metric: str) -> None:
    """Refuse a metric that the task does not have, or for which lower values are better.

    Raises:
        UserError: Names the metrics that the task has.
    """
    name, _, filter_name = metric.partition(",")
    filters = [one.name for one in getattr(task, "_filters", [])]
    names = [*task.aggregation()]
    no_filter = filters and (filter_name or "none") not in filters
    if no_filter or (name not in names and _lists_all_metrics(task)):
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
