"""Scores MedCalc-Bench (arXiv 2406.12036) by the benchmark's rule.

The rule depends on the form of the true answer and its limits. A record's category and output type
are not used, as their names differ between the splits. How an answer is read is our own
(docs/scorers.md has the forms). The benchmark's own reading is in `medcalc_official`, and its
verdict is recorded beside ours.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from talr_cli.scorers import medcalc_official
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.dates import read_date, read_weeks_days
from talr_cli.scorers.numbers import normalise
from talr_cli.scorers.statements import stated_answer
from talr_cli.scorers.values import read_answer

FORMS = ("decimal", "integer", "date", "weeks_days")


def answer_form(answer: str, lower: str, upper: str) -> str | None:
    """The form of a ground truth, one of FORMS; None if it has none of them.

    A whole number without margin and decimals is a score ("integer"), which the rounded answer must
    equal. Zero without margin may be a decimal as well, whose margin is 5 % of 0: it counts as
    "decimal" and must be matched exactly.
    """
    if read_date(answer) is not None:
        return "date"
    if read_weeks_days(answer) is not None:
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
    """Scores an output by the reference {"form", "answer", "lower", "upper"}.

    A decimal must be within the limits, where a percentage may also be meant as a share. An integer
    must be equal after rounding (halves to even). A date, or weeks and days, must be the same.

    `summary` has under `official` the score by the benchmark's own reading, reimplemented. It uses
    "calculator", the record's Calculator ID, or the form if a reference has none.

    Args:
        prompt: `official` if answers are in the benchmark's JSON, else `plain`: the benchmark's
            reading then gets what follows `Answer:`.
    """

    def __init__(self, prompt: str = "plain") -> None:
        self._is_json = prompt == "official"

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        form = reference["form"]
        if form not in FORMS:
            raise ValueError(f"unknown form of answer {form!r}: expected one of {', '.join(FORMS)}")
        correct, parsed = _judge(output, reference)
        said, is_right = medcalc_official.judge(output, reference, self._is_json)
        return Verdict(correct, parsed, {"official": {"parsed": said, "correct": is_right}})

    def summary(
        self, verdicts: Sequence[Verdict], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The share of correct answers by the benchmark's own reading, with its standard error.

        `read` is the number of outputs in which it found an answer.
        """
        official = [verdict.detail["official"] for verdict in verdicts]
        n = len(official)
        share = sum(one["correct"] for one in official) / n
        stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
        found = sum(one["parsed"] is not None for one in official)
        return {"official": {"score": share, "stderr": stderr, "n": n, "read": found}}


def _judge(output: str, reference: Mapping[str, Any]) -> tuple[bool, str | None]:
    """(whether an output is correct, the answer that was read from it)."""
    stated = stated_answer(output)
    is_stated = stated is not None
    text = normalise(output).strip() if stated is None else stated
    form, truth = reference["form"], str(reference["answer"])
    if form == "date":
        found = read_date(text, is_stated)
        return found is not None and found == read_date(truth), _format(found)
    if form == "weeks_days":
        both = read_weeks_days(text, is_stated)
        return both is not None and both == read_weeks_days(truth), _format(both)
    number = read_answer(text, counts=form == "integer", stated=is_stated)
    if number is None or not math.isfinite(number.value):
        return False, None
    value = number.value
    if form == "integer":
        return round(value) == float(truth), f"{value:g}"
    limits = _limits(reference["lower"], reference["upper"])
    is_share = number.is_percent and _within(value / 100, *limits)
    return is_share or _within(value, *limits), f"{value:g}"


def _limits(lower: Any, upper: Any) -> tuple[float, float]:
    # Sorted, as the limits of a negative number are in reverse order.
    least, greatest = sorted((float(lower), float(upper)))
    return least, greatest


def _within(value: float, least: float, greatest: float) -> bool:
    rounding = 1e-9 * max(abs(least), abs(greatest))
    return least - rounding <= value <= greatest + rounding


def _format(value: date | tuple[int, int] | None) -> str | None:
    if isinstance(value, tuple):
        return f"{value[0]} weeks, {value[1]} days"
    return None if value is None else f"{value:%m/%d/%Y}"
