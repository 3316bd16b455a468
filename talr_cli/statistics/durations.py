"""How long runs took, from their results.

A resumed run has timed only its last part, so its time is scaled up to all steps.
"""

from typing import Any

from talr_cli.statistics.pairs import PARTS, Results


def training_seconds(training: dict[str, Any]) -> float | None:
    """Wall time of all steps; None if no step was timed."""
    timed = training.get("timed_steps", training["steps"] - training["resumed_from_step"])
    return training["seconds"] * training["steps"] / timed if timed > 0 else None


def training_hours(training: dict[str, Any]) -> float | None:
    """Device hours of all steps, summed over processes; None if no step was timed."""
    seconds = training_seconds(training)
    return None if seconds is None else seconds * training.get("processes", 1) / 3600


def evaluation_seconds(one: Results) -> float:
    """Wall time of the general and the domain evaluation together."""
    return sum(one[part].get("seconds", 0.0) for part in PARTS if one[part])


def evaluation_hours(one: Results) -> float:
    """Device hours of both evaluations, summed over processes."""
    parts = [one[part] for part in PARTS if one[part]]
    return sum(part.get("seconds", 0.0) * part.get("processes", 1) for part in parts) / 3600
