"""What results.json says of a run, and whether a score of one run can be set beside another's."""

from collections.abc import Iterable
from typing import Any

from talr_cli.runs.names import as_now, run_name

Results = dict[str, Any]
PARTS = ("domain", "general")


def is_base(results: Results) -> bool:
    return results["run"]["method"] == "base"


def averaged_from(results: Results) -> dict[str, Any] | None:
    """The `alpha` of an averaged model and the run it is made `of`; None for any other run."""
    return (results.get("weights") or {}).get("averaged")


def averaging_alpha(results: Results) -> float | None:
    """The share of the tuned weights in an averaged model; None for any other run."""
    averaged = averaged_from(results)
    return averaged["alpha"] if averaged else None


def share_trained(results: Results) -> float:
    """After which share of its training's steps the weights were taken."""
    taken = (results.get("weights") or {}).get("taken")
    return taken["at"] if taken else 1.0


def method_label(results: Results) -> str:
    """The method's name, with the alpha of an averaged model."""
    alpha = averaging_alpha(results)
    method = results["run"]["method"]
    return method if alpha is None else f"{method} α={alpha:g}"


def run_label(results: Results) -> str:
    """As `method_label`, with the share of the steps where the weights were taken before the end.

    It tells apart the models that one training makes.
    """
    share = share_trained(results)
    return method_label(results) + ("" if share == 1 else f" @{share:.3g}")


def paths(runs: Iterable[Results]) -> list[list[Results]]:
    """The runs along each training in their order; a training that was scored once is none.

    Models averaged by one alpha from the points of one training are a path too.
    """
    found: dict[tuple[str, str], list[Results]] = {}
    for one in runs:
        found.setdefault((training_of(one), method_label(one)), []).append(one)
    return [sorted(path, key=share_trained) for path in found.values() if len(path) > 1]


def training_of(results: Results) -> str:
    """The training that the weights are of, by its run's name: one for its points and averages."""
    taken, averaged = (results.get("weights") or {}).get("taken"), averaged_from(results)
    return as_now((taken or averaged or {"of": name_of(results)})["of"])


def name_of(results: Results) -> str:
    """What the run's directory is called."""
    run = results["run"]
    return run_name(run["method"], run["lr"], run["seed"], share_trained(results), run["id"])


def has_both_scores(results: Results) -> bool:
    return all(score_of(results, part) is not None for part in PARTS)


def point(results: Results) -> tuple[float, float]:
    """Domain and general score of a run that has both."""
    return results["domain"]["score"], results["general"]["score"]


def score_of(results: Results, part: str) -> float | None:
    """The score of a part as in `section_of`; None where it is not measured or not a number."""
    section = section_of(results, part)
    return section["score"] if section else None


def measured_alike(one: Results, other: Results, part: str) -> bool:
    """Whether both were scored by the same measure on the same items."""
    return unlike(one, other, part) is None


def unlike(one: Results, other: Results, part: str) -> str | None:
    """Why the scores of a part, as in `section_of`, cannot be compared; None where they can.

    Content decides: what the base models are made of and what was asked, whatever their names.
    """
    bases = one["run"]["base"], other["run"]["base"]
    if bases[0] != bases[1]:
        return f"its base is another model ({short(bases[0])} and {short(bases[1])})"
    return measured_otherwise(one, other, part, of_model=True)


def measured_otherwise(
    one: Results, other: Results, part: str, of_model: bool = False
) -> str | None:
    """As `unlike`, whatever the base models are.

    Args:
        of_model: Whether what belongs to a model counts too: how its prompts are written, how long
            all may be. What either does not say counts for nothing: it is older.
    """
    first, second = section_of(one, part), section_of(other, part)
    if not first or not second:
        return f"{part} was not scored"
    datasets = one["run"]["dataset"], other["run"]["dataset"]
    if part == "domain" and datasets[0] != datasets[1]:
        return f"domain is {datasets[0]} and {datasets[1]}"
    # A quick look at the first items is no estimate of the same thing.
    for key in _MEASURE:
        # What does not say its backend was scored when there was one.
        one_way, other_way = (
            section.get(key, "hf" if key == "backend" else None) for section in (first, second)
        )
        if one_way != other_way and part == "domain" and key == "definition":
            if one_way is None or other_way is None:
                continue  # of results from before it was recorded nobody knows
            return (
                f"domain was scored by two versions of {first['scorer']} ({one_way} and "
                f"{other_way}); to score again: the command that made each (`talr show RUN`), "
                "which trains nothing again"
            )
        if key == "chat_template" and None in (one_way, other_way):
            continue  # one of them was scored when it was not recorded
        if one_way != other_way:
            return f"{part} was scored by {key}={one_way} and {key}={other_way}"
    asked = first.get("items_hash"), second.get("items_hash")
    if asked[0] != asked[1]:
        return f"{part} was scored on other items ({short(asked[0])} and {short(asked[1])})"
    tasks, other_tasks = first.get("tasks", {}), second.get("tasks", {})
    if tasks.keys() != other_tasks.keys():
        return f"{part} is of the tasks {', '.join(tasks)} and of {', '.join(other_tasks)}"
    for task in tasks:
        reason = measured_otherwise(one, other, f"{part}/{task}", of_model)
        if reason is not None:
            return reason
    for key, reason in _OF_MODEL.items() if of_model else ():
        values = first.get(key), second.get(key)
        if values[0] != values[1] and None not in values:
            return f"{part} {reason} ({short(str(values[0]))} and {short(str(values[1]))})"
    return None


def made_otherwise(one: Results, other: Results) -> str | None:
    """In what runs differ whose method, rate and seed do not say it; None: in nothing known."""
    if run_label(one) != run_label(other):
        return None
    if _both_differ(one, other, "trained_on"):
        return "they were trained on other data"
    if _both_differ(one, other, "setting"):
        return "they differ in more than rate and seed: `talr show RUN` has the values of each"
    return None


def _both_differ(one: Results, other: Results, key: str) -> bool:
    values = one.get(key), other.get(key)
    return None not in values and values[0] != values[1]


def short(fingerprint: str | None) -> str:
    """As much of a hash as tells two apart for people."""
    return (fingerprint or "unknown")[:8]


def section_of(results: Results, part: str) -> dict[str, Any] | None:
    """What results.json says of `domain`, of `general` or of `general/TASK`."""
    section, _, task = part.partition("/")
    if not task or not results[section]:
        return results[section]
    return results[section].get("tasks", {}).get(task)


def points_alike(one: Results, other: Results) -> bool:
    """Whether both scores of the one can be set beside those of the other."""
    return all(measured_alike(one, other, part) for part in PARTS)


_OF_MODEL = {
    "prompts_hash": "was asked by other prompts: model.chat_template, template_arguments or date",
    "max_new_tokens": "was answered within other numbers of tokens: domain.max_new_tokens",
    "prompts_cut": "has lost the beginnings of other prompts: suite.max_length",
}
_MEASURE = (
    *("scorer", "suite", "limit", "answer_by", "backend", "chat_template", "metric", "version"),
    "definition",
)
