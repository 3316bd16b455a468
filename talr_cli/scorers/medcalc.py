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

from talr_cli.scorers.base import Verdict
from talr_cli.scorers.numbers import find_numbers, normalise, parse_expression

FORMS = ("decimal", "integer", "date", "weeks_days")

_DATE = re.compile(r"(?<!\d)(\d{1,2})/(\d{1,2})/(\d{4})(?!\d)")
_ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_WEEKS_DAYS = re.compile(
    r"(?<!\d)(\d{1,3}) ?(?:weeks?|wks?|w)\W{0,6}(?:and\W{0,3})?(\d{1,3})\W{0,2}(?:days?|d)\b",
    re.IGNORECASE,
)
_BARE_WEEKS_DAYS = re.compile(r"[\[(] ?(\d{1,3}), ?(\d{1,3})[\])]\W*")
# Spaces come one at a time here: see stated_answer.
_STATED = re.compile(
    r"answer\b[\"')]{0,2} ?(?:\([^()\n]{0,40}\) ?)?(?:(?:to|for|of|in) [^\n.:=]{1,60}? ?)?"
    r"(?:\bis\b ?:?|[:=])\s?(.*)",
    re.IGNORECASE,
)
_JSON = re.compile(r"\{[^{}]*\}")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = r"(?<![\d.])(-?\d+(?:\.\d+)?)"
_OUT_OF = re.compile(rf"{_NUMBER} ?(?:points? )?out of ", re.IGNORECASE)
_OUT_OF_SLASH = re.compile(
    rf"[\s(\"']{{0,3}}{_NUMBER} ?/ ?\d+ ?(?:points?)?\W{{0,3}}", re.IGNORECASE
)
_ABOUT = r"(?:(?:about|approximately|around|roughly|nearly) )?(?=-?\.?\d)"
_LEADS = re.compile(rf"[\s\"'(\[<≈~=]{{0,9}}{_ABOUT}", re.IGNORECASE)
_IS = re.compile(rf"\b(?:is|was|equals|be) [≈~]?{_ABOUT}", re.IGNORECASE)
_FORMULA = re.compile(r"-?[\d.,]+ ?[-+*/^] ?[\d(.]")  # how one begins
_EQUALS = re.compile("[=≈](?=[^=≈]*\\d)")
_PER_SURFACE = re.compile(r" ?(?:/|\bper) ?1\.73 ?m(?:\^?2)?", re.IGNORECASE)


def answer_form(answer: str, lower: str, upper: str) -> str | None:
    """The form of a ground truth, one of FORMS; None if it is none of them.

    A whole number without a margin and without decimals is a score, right when the rounded answer
    equals it. Zero may be a decimal as well, its margin being 5 % of nothing: it is taken exactly.
    """
    if _as_date(answer) is not None:
        return "date"
    if _as_weeks_days(answer) is not None:
        return "weeks_days"
    try:
        value, least, greatest = float(answer), *_limits(lower, upper)
    except ValueError:
        return None
    if not math.isfinite(value) or not least <= value <= greatest:
        return None
    is_score = least == greatest and value != 0 and "." not in answer and value.is_integer()
    return "integer" if is_score else "decimal"


class MedCalcScorer:
    """Scores an output against {"form", "answer", "lower", "upper"}.

    decimal: within the limits, a percentage also as a share; integer: equal when rounded, halves
    to even; date: the same day; weeks_days: both equal.
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
        if form == "integer" and (out_of := _OUT_OF_SLASH.fullmatch(text)):
            text = out_of[1]
        value = read_number(text)
        if value is None or not math.isfinite(value):
            return Verdict(False, None)
        if form == "integer":
            correct = round(value) == float(truth)
        else:
            limits = _limits(reference["lower"], reference["upper"])
            correct = _within(value, *limits) or ("%" in text and _within(value / 100, *limits))
        return Verdict(correct, f"{value:g}")


def _limits(lower: Any, upper: Any) -> tuple[float, float]:
    # Five per cent more of a negative number is less.
    least, greatest = sorted((float(lower), float(upper)))
    return least, greatest


def _within(value: float, least: float, greatest: float) -> bool:
    rounding = 1e-9 * max(abs(least), abs(greatest))
    return least - rounding <= value <= greatest + rounding


def stated_answer(output: str) -> str:
    """The part of an output that states the answer last, or all of it.

    A statement is a line `Answer: ...`, a sentence `the answer is ...`, the field of a JSON object,
    whole or broken off, or a box.
    """
    # Runs of spaces would make the patterns slow.
    text = re.sub(r"[^\S\n]+", " ", normalise(output))
    stated = [match for match in _STATED.finditer(text) if match[1].strip()]
    boxes = list(_BOXED.finditer(text))
    if boxes and (not stated or boxes[-1].start() >= stated[-1].start()):
        return boxes[-1][1]
    if not stated:
        return text.strip()
    last = stated[-1]
    for block in _JSON.finditer(text):
        if block.start() < last.start() < block.end():
            field = _answer_field(block[0])
            if field is not None:
                return field
    return last[1].strip()


def _answer_field(block: str) -> str | None:
    """The answer of a JSON object as text; None if it is no JSON or has no answer."""
    try:
        record = json.loads(block)
    except (ValueError, RecursionError):  # lists may be nested without end
        return None
    keys = sorted((key for key in record if "answer" in key.lower()), key=len)
    if not keys:
        return None
    value = record[keys[0]]
    return json.dumps(value) if isinstance(value, list) else str(value).strip()


def read_number(text: str) -> float | None:
    """The number that an answer gives, None if it gives none.

    An expression as a whole; the 3 of `3 out of 5`; the number that the text leads with. Else, of
    the last line with a number, the one after the last equals sign or `is`, or the last.
    """
    text = _PER_SURFACE.sub("", text).strip().strip("\"'").strip()
    if text.startswith("str(") and text.endswith(")"):  # as the benchmark's prompt has it
        text = text[4:-1]
    whole = parse_expression(text.rstrip(".").strip())
    if whole is not None:
        return whole
    if out_of := _OUT_OF.search(text):
        return float(out_of[1])
    leads = _LEADS.match(text)
    if leads is not None and not _FORMULA.match(text, leads.end()):
        return next(iter(find_numbers(text)), None)
    for line in reversed(text.splitlines()):
        numbers = find_numbers(line)
        if numbers:
            ends = [match.end() for match in (*_IS.finditer(line), *_EQUALS.finditer(line))]
            result = find_numbers(line[max(ends, default=0) :])
            return result[0] if ends and result else numbers[-1]
    return None


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
    if not found and (bare := _BARE_WEEKS_DAYS.fullmatch(text)):
        found = [bare.groups()]
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def _shown(value: date | tuple[int, int] | None) -> str | None:
    if isinstance(value, tuple):
        return f"{value[0]} weeks, {value[1]} days"
    return None if value is None else f"{value:%m/%d/%Y}"
