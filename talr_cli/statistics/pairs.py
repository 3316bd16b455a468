"""What results.json says about a run, and whether the scores of two runs can be compared.

A *part* is what a score measures: `domain`, `general` (the mean of its tasks) or `general/TASK`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from talr_cli.runs.names import run_name

Results = dict[str, Any]  # the content of a results.json
RunsByPath = Mapping[Path, Results]  # the results of a study by run directory
PARTS: tuple[Literal["domain", "general"], ...] = ("domain", "general")

# How a score was measured. Scores that differ in one of these are not compared.
_MEASURE = (
    "scorer",
    "suite",
    "limit",  # a score over the first items only is another quantity
    "answer_by",
    "backend",
    "chat_template",
    "metric",
    "version",
    "definition",
)
# Settings of the model: two base models may differ in them, a model and its base may not.
_OF_MODEL = {
    "prompts_hash": "used other prompts: model.chat_template, template_arguments or date",
    "max_new_tokens": "had another limit on answers: domain.max_new_tokens",
    "prompts_cut": "had the beginnings of other prompts cut off: suite.max_length",
}


def is_base(results: Results) -> bool:
    """Whether these are the scores of the base model, before any fine-tuning."""
    return results["run"]["method"] == "base"


def averaged_from(results: Results) -> dict[str, Any] | None:
    """The `alpha` of an averaged model and the run it is made `of`; None for other runs."""
    return (results.get("weights") or {}).get("averaged")


def averaging_alpha(results: Results) -> float | None:
    """The share of the fine-tuned weights in an averaged model; None for other runs."""
    averaged = averaged_from(results)
    return averaged["alpha"] if averaged else None


def share_trained(results: Results) -> float:
    """The share of the training steps after which the weights were taken; 1 at the end."""
    taken = (results.get("weights") or {}).get("taken")
    return taken["at"] if taken else 1.0


def method_label(results: Results) -> str:
    """The method's name, with alpha for an averaged model."""
    alpha = averaging_alpha(results)
    method = results["run"]["method"]
    return method if alpha is None else f"{method} α={alpha:g}"


def run_label(results: Results) -> str:
    """As `method_label`, with the share of the steps for a point along a training: `sft @0.5`."""
    share = share_trained(results)
    return method_label(results) + ("" if share == 1 else f" @{share:.3g}")


def trajectories(runs: Iterable[Results]) -> list[list[Results]]:
    """The points along each training in their order; trainings with a single point are left out.

    Averages with the same alpha of the points of one training are a trajectory too.
    """
    found: dict[tuple[str, str], list[Results]] = {}
    for one in runs:
        found.setdefault((training_of(one), method_label(one)), []).append(one)
    return [sorted(points, key=share_trained) for points in found.values() if len(points) > 1]


def training_of(results: Results) -> str:
    """The name of the run whose training made the weights, also for points and averages."""
    taken, averaged = (results.get("weights") or {}).get("taken"), averaged_from(results)
    return (taken or averaged or {"of": name_of(results)})["of"]


def name_of(results: Results) -> str:
    """The name of the run's directory."""
    run = results["run"]
    return run_name(run["method"], run["lr"], run["seed"], share_trained(results), run["id"])


def has_both_scores(results: Results) -> bool:
    """Whether the domain and the general score are known."""
    return all(score_of(results, part) is not None for part in PARTS)


def both_scores(results: Results) -> tuple[float, float]:
    """The domain and the general score of a run that has both."""
    return results["domain"]["score"], results["general"]["score"]


def score_of(results: Results, part: str) -> float | None:
    """The score of a part; None if it was not measured or is not a number."""
    section = section_of(results, part)
    return section["score"] if section else None


def measured_alike(one: Results, other: Results, part: str) -> bool:
    """Whether both have the same base model and were scored in the same way on the same items."""
    return mismatch(one, other, part) is None


def measure(results: Results, part: str) -> tuple | None:
    """All that `mismatch` looks at, so that runs of the same are measured alike; None if unscored.

    Most runs of a study have the same, and many comparisons of each pair are saved.
    """
    section = section_of(results, part)
    if not section:
        return None
    run, tasks = results["run"], section.get("tasks", {})
    values = (section.get(key) for key in (*_MEASURE, *_OF_MODEL, "items_hash"))
    of_tasks = ((task, measure(results, f"{part}/{task}")) for task in tasks)
    return (run["base"], run["dataset"], *map(repr, values), *of_tasks)


def mismatch(one: Results, other: Results, part: str) -> str | None:
    """Why the scores of a part cannot be compared; None if they can.

    Base models and items are compared by hash, never by name.
    """
    bases = one["run"]["base"], other["run"]["base"]
    if bases[0] != bases[1]:
        return f"its base is another model ({short_hash(bases[0])} and {short_hash(bases[1])})"
    return measure_mismatch(one, other, part, of_model=True)


def measure_mismatch(one: Results, other: Results, part: str, of_model: bool = False) -> str | None:
    """As `mismatch`, for runs of any two base models.

    Args:
        of_model: Whether settings of the model are compared too, such as the prompts and the limit
            on answers. A value that one of them lacks is ignored, as earlier versions did not
            record it.
    """
    first, second = section_of(one, part), section_of(other, part)
    if not first or not second:
        return f"{part} was not scored"
    datasets = one["run"]["dataset"], other["run"]["dataset"]
    if part == "domain" and datasets[0] != datasets[1]:
        return f"domain is {datasets[0]} and {datasets[1]}"
    reason = _scoring_mismatch(first, second, part)
    if reason is not None:
        return reason
    items = [short_hash(section.get("items_hash")) for section in (first, second)]
    if first.get("items_hash") != second.get("items_hash"):
        return f"{part} was scored on other items ({items[0]} and {items[1]})"
    tasks, other_tasks = first.get("tasks", {}), second.get("tasks", {})
    if tasks.keys() != other_tasks.keys():
        return f"{part} is of the tasks {', '.join(tasks)} and of {', '.join(other_tasks)}"
    for task in tasks:
        reason = measure_mismatch(one, other, f"{part}/{task}", of_model)
        if reason is not None:
            return reason
    for key, reason in _OF_MODEL.items() if of_model else ():
        values = [first.get(key), second.get(key)]
        if values[0] != values[1] and None not in values:
            return (
                f"{part} {reason} ({short_hash(str(values[0]))} and {short_hash(str(values[1]))})"
            )
    return None


def _scoring_mismatch(first: dict[str, Any], second: dict[str, Any], part: str) -> str | None:
    """How the sections of two runs differ in the values of _MEASURE; None if they do not."""
    for key in _MEASURE:
        # Earlier versions had one backend only, and recorded neither template nor scorer.
        values = [
            section.get(key, "hf" if key == "backend" else None) for section in (first, second)
        ]
        is_scorer = key == "definition" and part == "domain"
        if values[0] == values[1] or (None in values and (is_scorer or key == "chat_template")):
            continue
        if is_scorer:
            return (
                f"domain was scored by two versions of {first['scorer']} ({values[0]} and "
                f"{values[1]}); to score again, repeat the command that made each "
                "(`talr show RUN`), which does not train again"
            )
        return f"{part} was scored by {key}={values[0]} and {key}={values[1]}"
    return None


def setting_mismatch(one: Results, other: Results) -> str | None:
    """How two runs of the same label differ beyond lr and seed; None if they are not known to."""
    if run_label(one) != run_label(other):
        return None
    if _both_differ(one, other, "trained_on") or rows_changed(one, other):
        return "they were trained on other data"
    if _both_differ(one, other, "setting"):
        return "they differ in more than rate and seed: `talr show RUN` has the values of each"
    return None


def rows_changed(one: Results, other: Results) -> bool:
    """Whether both asked for the same training rows and got others, as what the hub has changes."""
    asked, got = zip(rows_of(one), rows_of(other), strict=True)
    return asked[0] == asked[1] and None not in got and got[0] != got[1]


def rows_of(results: Results) -> tuple[str | None, str | None]:
    """Hashes of how the training rows were chosen and of the rows; None for what is not known."""
    training = results["training"] or {}
    return training.get("rows_chosen"), training.get("rows_hash")


def _both_differ(one: Results, other: Results, key: str) -> bool:
    values = one.get(key), other.get(key)
    return None not in values and values[0] != values[1]


def short_hash(fingerprint: str | None) -> str:
    """The first characters of a hash, enough to tell two apart."""
    return (fingerprint or "unknown")[:8]


def section_of(results: Results, part: str) -> dict[str, Any] | None:
    """The section of results.json about a part; None if it was not scored."""
    section, _, task = part.partition("/")
    if not task or not results[section]:
        return results[section]
    return results[section].get("tasks", {}).get(task)


def tasks_of(results: Results) -> list[str]:
    """`general/TASK` of each task of the general score, in the order of the suite."""
    return [f"general/{task}" for task in (results["general"] or {}).get("tasks", {})]


def parts_of(results: Results) -> list[str]:
    """The parts that have items: `domain` and `general/TASK` of each task."""
    return ["domain", *tasks_of(results)]
