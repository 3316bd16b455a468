"""Whether a task has the metric that counts, as far as that is known before a model answers.

Knows tasks of the harness; does not know answers or scores.
"""

from __future__ import annotations

from lm_eval.api.task import ConfigurableTask, Task

from talr_cli.errors import UserError


def require_metric(task: Task, metric: str) -> None:
    """Refuse a metric that the task is known not to have, or that cannot be in a mean."""
    name, _, filter_name = metric.partition(",")
    filters = [one.name for one in getattr(task, "_filters", [])]
    names = [*task.aggregation()]
    no_filter = filters and (filter_name or "none") not in filters
    if no_filter or (name not in names and _gives_what_it_lists(task)):
        known = "; ".join(f"{each},{one}" for one in filters for each in names)
        raise UserError(f"suite.metrics: {metric}: {task.task_name} has {known}")
    if task.higher_is_better().get(name) is False:
        # A perplexity in the mean would count what was forgotten as a gain.
        raise UserError(
            f"suite.metrics: {name} of {task.task_name} is the better the lower it is, and the "
            "general score is a mean of what is the better the higher: name another metric, or "
            f"leave {task.task_name} out (drift.cross_entropy is measured in any case)"
        )


def _gives_what_it_lists(task: Task) -> bool:
    """Whether a task has no other metrics than those of its list.

    A function of its own may give more, and so may a metric of generated texts that is none of the
    harness's.
    """
    is_own = type(task).process_results is not ConfigurableTask.process_results
    if is_own or callable(task.config.process_results):
        return False
    metrics = getattr(task, "_metric_fn_list", {}).values()
    return task.OUTPUT_TYPE != "generate_until" or all(
        getattr(one, "__module__", "") == "lm_eval.api.metrics" for one in metrics
    )
