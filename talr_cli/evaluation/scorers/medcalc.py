"""MedCalc-Bench's rule (arXiv 2406.12036), applied by the form of the truth and its limits.

The category and output type of a record are never asked: their names differ between the splits.
Answers are parsed, never evaluated as code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from talr_cli.data.base import Verdict
from talr_cli.evaluation.scorers.numbers import find_numbers, normalise, parse_expression

FORMS = ("decimal", "integer", "date", "weeks_days")

_DATE = re.compile(r"(?<!\d)(\d{1,2})/(\d{1,2})/(\d{4})(?!\d)")
_ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_WEEKS_DAYS = re.compile(
    r"(\d+)\s*(?:weeks?|wks?)\W{0,6}(?:and\W{0,3})?(\d+)\s*days?", re.IGNORECASE
)
_LINE = re.compile(r"answer\s*(?:is)?\s*[:=]\s*(.*)", re.IGNORECASE)
_JSON = re.compile(r"\{[^{}]*\}")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_OUT_OF = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:out of|/)\s*\d+\s*(?:points?)?\W*$", re.IGNORECASE)


def answer_form(answer: str, lower: str, upper: str) -> str | None:
    """The form of a ground truth, one of FORMS; None if it is none of them.

    A whole number without a margin is a score, right only when exact.
    """
    if _as_date(answer) is not None:
        return "date"
    if _as_weeks_days(answer) is not None:
        return "weeks_days"
    try:
        value, least, greatest = (float(text) for text in (answer, lower, upper))
    except ValueError:
        return None
    if not all(map(math.isfinite, (value, least, greatest))) or not least <= value <= greatest:
        return None
    return "integer" if least == greatest and value == int(value) else "decimal"


class MedCalcScorer:
    """Scores an output against {"form", "answer", "lower", "upper"}.

    decimal: within the limits, or, where they are equal, the truth to its last digit;
    integer: equal when rounded; date: the same day; weeks_days: both equal.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        form = reference["form"]
        if form not in FORMS:
            raise ValueError(f"unknown form of answer {form!r}: expected one of {', '.join(FORMS)}")
        text = stated_answer(output)
        truth = str(reference["answer"])
        if form == "date":
            found = _as_date(text)
            return Verdict(found is not None and found == _as_date(truth), _shown(found))
        if form == "weeks_days":
            both = _as_weeks_days(text)
            return Verdict(both is not None and both == _as_weeks_days(truth), _shown(both))
        value = read_number(text)
        if value is None:
            return Verdict(False, None)
        if form == "integer":
            correct = math.floor(value + 0.5) == float(truth)
        else:
            correct = _within(value, reference["lower"], reference["upper"], truth)
        return Verdict(correct, f"{value:g}")


def _within(value: float, lower: Any, upper: Any, truth: str) -> bool:
    least, greatest = float(lower), float(upper)
    margin = 1e-9 * max(abs(least), abs(greatest))
    if least == greatest:
        margin += 0.5 * 10.0 ** -len(truth.partition(".")[2])
    return least - margin <= value <= greatest + margin


def stated_answer(output: str) -> str:
    """The part of an output that states the answer: a line `Answer:`, JSON, a box, or all of it."""
    text = normalise(output)
    boxes = _BOXED.findall(text)
    for block in reversed(_JSON.findall(text)):
        try:
            record = json.loads(block)
        except ValueError:
            continue
        for key, value in record.items():
            if "answer" in key.lower():
                return json.dumps(value) if isinstance(value, list) else str(value)
    lines = [line for line in _LINE.findall(text) if line.strip()]
    if boxes and (not lines or "boxed" in lines[-1]):
        return boxes[-1]
    return lines[-1] if lines else text


def read_number(text: str) -> float | None:
    """The number an answer gives: after the last equals sign, before its unit and any prose."""
    text = text.strip().strip("\"'").strip()
    whole = parse_expression(text.rstrip(".").strip())
    if whole is not None:
        return whole
    if out_of := _OUT_OF.search(text):
        return float(out_of[1])
    head, equals, tail = text.rpartition("=")
    if equals and find_numbers(tail):
        text = tail
    elif equals:
        text = head
    numbers = find_numbers(text)
    if not numbers:
        return None
    # A stated answer leads with its number; free text ends with it.
    return numbers[-1] if "\n" in text else numbers[0]


def _as_date(text: str) -> date | None:
    found = None
    for match in _DATE.finditer(text):
        month, day, year = map(int, match.groups())
        found = _day(year, month, day) or found
    for match in _ISO_DATE.finditer(text):
        found = _day(*map(int, match.groups())) or found
    return found


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _as_weeks_days(text: str) -> tuple[int, int] | None:
    found = _WEEKS_DAYS.findall(text)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def _shown(value: date | tuple[int, int] | None) -> str | None:
    if isinstance(value, tuple):
        return f"{value[0]} weeks, {value[1]} days"
    return None if value is None else f"{value:%m/%d/%Y}"
