"""What a results.json has to hold, and reading one: a file that is damaged gives no number at all.

Knows the parts that are read later and their types; does not know what the scores mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError, reason_of
from talr_cli.printable import printable
from talr_cli.runs.names import of_another
from talr_cli.runs.reading import read_text

SCHEMA = 2
TOLERANCE = 1e-6  # between a score and the mean that it is

Check = Callable[[Any, str], None]  # value and where it stands; raises ValueError


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        UserError: It cannot be read, is damaged, or is of another version or run.
    """
    try:
        results = json.loads(read_text(path), parse_constant=_no_number)
        _dict(results, "it")
        if type(results.get("schema")) is int and results["schema"] != SCHEMA:
            raise UserError(
                f"{path} is of another version of talr (schema {results['schema']}, not {SCHEMA}) "
                f"and does not say what it can be compared with: {_how_to_score(path.parent)}"
            )
        _RESULTS(results, "")
        _check_means(results)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        reason = printable(reason_of(error))
        raise UserError(f"{path} is damaged ({reason}): {_how_to_score(path.parent)}") from error
    stranger = of_another(path.absolute().parent.name, results["run"]["id"])
    if stranger is not None:
        raise UserError(f"{path} {stranger}")
    return results


def _how_to_score(run: Path) -> str:
    typed = f"repeat the command whose arguments are in {run / 'overrides.yaml'}"
    return f"{typed}: it only scores again" if (run / "model").is_dir() else typed


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _check_means(results: Mapping[str, Any]) -> None:
    """Scores are what they are the mean of: one that was changed on the way is found out."""
    tasks = (results["general"] or {}).get("tasks", {})
    sections = {"domain": results["domain"], **{f"general.{name}": tasks[name] for name in tasks}}
    for place, section in sections.items():
        if section and section["items"] and len(section["items"]) != section["n"]:
            raise ValueError(f"{place}: n is {section['n']}, not {len(section['items'])}")
        if section and section["items"] and section["score"] is not None:
            _mean(section["score"], list(section["items"].values()), place)
    scores = [task["score"] for task in tasks.values()]
    if scores and None not in scores and results["general"]["score"] is not None:
        _mean(results["general"]["score"], scores, "general")


def _mean(score: float, values: list[float], place: str) -> None:
    mean = math.fsum(values) / len(values)
    if not math.isclose(score, mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise ValueError(f"{place}: the score {score:g} is not the mean {mean:g} of its parts")


# Checks


def _is(what: str, test: Callable[[Any], bool]) -> Check:
    def check(value: Any, place: str) -> None:
        if not test(value):
            raise ValueError(f"{place} is {json.dumps(value)[:40]}, not {what}")

    return check


def _or_null(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_text = _is("text", lambda value: isinstance(value, str))
_number = _is("a number", _is_number)
_amount = _is("a number from 0", lambda value: _is_number(value) and value >= 0)
_positive = _is("a number above 0", lambda value: _is_number(value) and value > 0)
_share = _is("a share", lambda value: _is_number(value) and 0 < value <= 1)
_count = _is("a count", lambda value: type(value) is int and 0 <= value < 2**63)
_truth = _is("true or false", lambda value: type(value) is bool)
_dict = _is("an object", lambda value: isinstance(value, dict))


def _of(check: Check) -> Check:
    """An object whose values all pass."""

    def check_all(value: Any, place: str) -> None:
        _dict(value, place)
        for key, one in value.items():
            check(one, f"{place}.{key}")

    return check_all


def _object(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys, and perhaps others that nobody reads."""

    def check(value: Any, place: str) -> None:
        _dict(value, place)
        for key, check_one in fields.items():
            if key not in value:
                raise ValueError(f"{place}.{key}".lstrip(".") + " is missing")
            check_one(value[key], f"{place}.{key}".lstrip("."))
        for key, check_one in (optional or {}).items():
            if key in value:
                check_one(value[key], f"{place}.{key}")

    return check


_ESTIMATE = {"score": _or_null(_number), "stderr": _or_null(_amount), "n": _count}
_SCORED = {
    **_ESTIMATE,
    "metric": _text,
    "items": _or_null(_of(_number)),  # None where the score is not their mean
    "items_hash": _text,
}
# What every score may say of how it was made.
_MADE = {
    "seconds": _amount,
    "processes": _count,
    "limit": _or_null(_count),
    "backend": _text,
    "prompts_hash": _or_null(_text),
    "definition": _or_null(_text),
}
_TASK = _object({**_SCORED, "all": _of(_or_null(_number))}, {**_MADE, "chat_template": _truth})
_RESULTS = _object(
    {
        "schema": _count,
        "run": _object(
            {
                "id": _text,
                "model": _text,
                "dataset": _text,
                "base": _text,  # of the weights of the base model
                "method": _text,
                "lr": _or_null(_positive),
                "seed": _or_null(_is("a whole number", lambda value: type(value) is int)),
            }
        ),
        "scoring": _text,
        "domain": _or_null(
            _object(
                {**_SCORED, "scorer": _text},
                {
                    **_MADE,
                    "categories": _of(_object(_ESTIMATE)),
                    "answer_by": _text,
                    "max_new_tokens": _or_null(_count),
                },
            )
        ),
        "general": _or_null(
            _object(
                {**_ESTIMATE, "formula": _text, "suite": _text, "tasks": _of(_TASK)},
                {**_MADE, "missing": _of(_text)},
            )
        ),
        "drift": _or_null(_of(_object(_ESTIMATE))),
        "training": _or_null(
            _object(
                {"steps": _count, "resumed_from_step": _count, "seconds": _amount},
                {
                    "tokens_per_second": _or_null(_number),
                    "peak_memory_gib": _or_null(_number),
                    "device": _text,
                    "processes": _count,
                    "timed_steps": _count,
                    "rows": _count,
                },
            )
        ),
        "weights": _or_null(
            _object(
                {},
                {
                    "averaged": _object({"alpha": _number, "of": _text}),
                    "taken": _object({"at": _share, "of": _text}),
                    "distance": _number,
                },
            )
        ),
        "versions": _of(_or_null(_text)),
    },
    # What tells runs of one name apart: hashes of all but rate and seed, and of the training data.
    {"setting": _text, "trained_on": _text},
)
