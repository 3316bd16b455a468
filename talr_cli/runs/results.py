"""Reads results.json and checks its content: a damaged file is refused as a whole.

Knows the fields that are read later and their types; does not know what the scores mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError, reason_of
from talr_cli.printable import printable
from talr_cli.runs.names import wrong_identity
from talr_cli.runs.reading import read_text

SCHEMA = 2
TOLERANCE = 1e-6  # between a score and the mean of its items
_MOST_SHOWN = 40  # characters of a value in a message
_LONGEST_REASON = 300  # characters; a name in the file may be of any length

Check = Callable[[Any, str], None]  # takes a value and its path; raises ValueError


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        UserError: It cannot be read, is damaged, or belongs to another version or run.
    """
    try:
        results = json.loads(read_text(path), parse_constant=_reject_constant)
        _dict(results, "it")
        if type(results.get("schema")) is int and results["schema"] != SCHEMA:
            schema = str(results["schema"])[:_MOST_SHOWN]
            raise UserError(
                f"{path} was written by another version of talr (schema {schema}, not "
                f"{SCHEMA}) and cannot be compared: {_rescore_hint(path.parent)}"
            )
        _RESULTS(results, "")
        _check_means(results)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        reason = printable(reason_of(error, _LONGEST_REASON))
        raise UserError(f"{path} is damaged ({reason}): {_rescore_hint(path.parent)}") from error
    mismatch = wrong_identity(path.absolute().parent.name, results["run"]["id"])
    if mismatch is not None:
        raise UserError(f"{path} {mismatch}")
    return results


def _rescore_hint(run: Path) -> str:
    hint = f"repeat the command whose arguments are in {run / 'overrides.yaml'}"
    return f"{hint}: it only scores again" if (run / "model").is_dir() else hint


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _check_means(results: Mapping[str, Any]) -> None:
    """Check that each score is the mean of its items, to detect a score that was edited."""
    tasks = (results["general"] or {}).get("tasks", {})
    sections = {"domain": results["domain"], **{f"general.{name}": tasks[name] for name in tasks}}
    for path, section in sections.items():
        if section and section["items"] and len(section["items"]) != section["n"]:
            raise ValueError(f"{path}: n is {section['n']}, not {len(section['items'])}")
        if section and section["items"] and section["score"] is not None:
            _check_mean(section["score"], list(section["items"].values()), path)
    scores = [task["score"] for task in tasks.values()]
    if scores and None not in scores and results["general"]["score"] is not None:
        _check_mean(results["general"]["score"], scores, "general")


def _check_mean(score: float, values: list[float], path: str) -> None:
    mean = math.fsum(values) / len(values)
    if not math.isclose(score, mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise ValueError(f"{path}: the score {score:g} is not the mean {mean:g} of its parts")


# Checks


def _is(what: str, test: Callable[[Any], bool]) -> Check:
    def check(value: Any, path: str) -> None:
        if not test(value):
            raise ValueError(f"{path} is {json.dumps(value)[:_MOST_SHOWN]}, not {what}")

    return check


def _or_null(check: Check) -> Check:
    return lambda value, path: None if value is None else check(value, path)


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


def _values(check: Check) -> Check:
    """Checks that a value is an object whose values all pass `check`."""

    def check_all(value: Any, path: str) -> None:
        _dict(value, path)
        for key, one in value.items():
            check(one, f"{path}.{key}")

    return check_all


def _object(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Checks that a value is an object with these keys; other keys are ignored."""

    def check(value: Any, path: str) -> None:
        _dict(value, path)
        for key, check_one in fields.items():
            if key not in value:
                raise ValueError(f"{path}.{key}".lstrip(".") + " is missing")
            check_one(value[key], f"{path}.{key}".lstrip("."))
        for key, check_one in (optional or {}).items():
            if key in value:
                check_one(value[key], f"{path}.{key}")

    return check


_ESTIMATE = {"score": _or_null(_number), "stderr": _or_null(_amount), "n": _count}
_SCORED = {
    **_ESTIMATE,
    "metric": _text,
    "items": _or_null(_values(_number)),  # None if the score is not their mean
    "items_hash": _text,
}
# What every score may record about how it was measured.
_PROVENANCE = {
    "seconds": _amount,
    "processes": _count,
    "limit": _or_null(_count),
    "backend": _text,
    "prompts_hash": _or_null(_text),
    "definition": _or_null(_text),
}
_TASK = _object(
    {**_SCORED, "all": _values(_or_null(_number))}, {**_PROVENANCE, "chat_template": _truth}
)
_RESULTS = _object(
    {
        "schema": _count,
        "run": _object(
            {
                "id": _text,
                "model": _text,
                "dataset": _text,
                "base": _text,  # a hash of the weights of the base model
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
                    **_PROVENANCE,
                    "categories": _values(_object(_ESTIMATE)),
                    "answer_by": _text,
                    "max_new_tokens": _or_null(_count),
                },
            )
        ),
        "general": _or_null(
            _object(
                {**_ESTIMATE, "formula": _text, "suite": _text, "tasks": _values(_TASK)},
                {**_PROVENANCE, "missing": _values(_text)},
            )
        ),
        "drift": _or_null(_values(_object(_ESTIMATE))),
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
                    # Hashes of the training rows, and of how they were chosen.
                    "rows_hash": _text,
                    "rows_chosen": _text,
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
        "versions": _values(_or_null(_text)),
    },
    # Hashes of all settings but rate and seed, and of the training data: they tell runs of the same
    # name apart.
    {"setting": _text, "trained_on": _text},
)
