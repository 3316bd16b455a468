"""Generates medical calculation problems in the style of MedCalc-Bench.

A problem is a short patient note with an irrelevant finding, a question that states the rule, the
working step by step, and the answer. The question states the rule so that a small model finds most
of the working easy and only the arithmetic hard, as larger models do in the study.
The patients are invented and the numbers drawn at random; the formulas are published ones. Nothing
is read from disk, so that the same config gives the same rows on every machine.
Knows how a problem is made from a calculator; the calculators are in `medcalc_mini_calculators`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Example, Splits
from talr_cli.data.generated import each_once, in_turns
from talr_cli.data.medcalc_mini_calculators import CALCULATORS, Equation, Score
from talr_cli.fields import value
from talr_cli.scorers.arithmetic import parse_expression
from talr_cli.scorers.medcalc import MedCalcScorer

# Which of ten buckets of a calculator's problems belong to which split.
_BUCKETS = {"train": range(6), "validation": range(6, 7), "test": range(7, 10)}
_MOST_DRAWS = 20_000
_MARGIN = 0.05  # of the answer, as in MedCalc-Bench; a count has none

_OPENINGS = (
    "A patient comes in with {}.",
    "The patient is seen for {}.",
    "The patient came to the clinic with {}.",
)
_COMPLAINTS = (
    "a cough", "back pain", "tiredness", "a headache", "a sore throat", "dizziness",
    "stomach pain", "a swollen leg", "a fall at home", "a routine visit",
)  # fmt: skip
_UNNEEDED = (
    "Hemoglobin is {hemoglobin} g/dL.",
    "Oxygen saturation is {saturation}%.",
    "The platelet count is {platelets}.",
    "The lungs are clear.",
    "The abdomen is soft.",
    "There are no allergies.",
    "The skin is warm and dry.",
)
_HOW = {"explanation": "Write the working, then", "label": "Write only"}


@dataclass
class MedCalcMini:
    """The dataset. The splits share no problem, and none depends on the size of another."""

    name: str = value("its name in tables and run directories", "medcalc-mini", may_be_empty=False)
    target: str = value(
        "what a completion holds: the working and the answer, or the answer only",
        "explanation",
        choices=("explanation", "label"),
    )
    train_rows: int = value("rows to train on", 160, at_least=0)
    validation_rows: int = value("rows for the validation loss", 32, at_least=0)
    test_rows: int = value("rows to score", 72, at_least=1, identity=False)
    data_seed: int = value("which problems are drawn; `seed` does not change the data", 0)

    unscored = ("train_rows", "validation_rows")

    def load(self) -> Splits:
        """Generate the rows.

        Raises:
            UserError: More rows are asked for than there are problems.
        """
        return Splits(
            train=self._rows("train", self.train_rows),
            validation=self._rows("validation", self.validation_rows),
            test=self._rows("test", self.test_rows),
            scorer=MedCalcScorer(),
        )

    def _rows(self, split: str, count: int) -> list[Example]:
        """`count` rows, with the calculators alternating."""
        streams = [(one.name, self._problems(one, split)) for one in CALCULATORS]
        return [
            self._example(f"{split}-{name.lower().replace(' ', '-')}-{index}", problem)
            for name, index, problem in in_turns(streams, f"{split}_rows", count, "problems")
        ]

    def _problems(self, calculator: Equation | Score, split: str) -> Iterator[Problem]:
        def belongs(key: str) -> bool:
            return hashlib.sha256(key.encode()).digest()[0] % 10 in _BUCKETS[split]

        return each_once(
            lambda draw: _draw_problem(calculator, draw),
            lambda problem: json.dumps([calculator.name, *sorted(problem.findings)]),
            belongs,
            f"{self.data_seed} {calculator.name}",
            _MOST_DRAWS,
        )

    def _example(self, row_id: str, problem: Problem) -> Example:
        draw = random.Random(f"{self.data_seed} {row_id}")
        rule, working, answer, is_count = _solve(problem)
        prompt = (
            f"{_note(problem, draw)}\n"
            f"Question: What is the {problem.calculator.quantity}? {rule} "
            f"{_HOW[self.target]} 'Answer: <number>'."
        )
        line = f"Answer: {_format(answer)}"
        margin = 0.0 if is_count else _MARGIN * abs(answer)
        return Example(
            id=row_id,
            messages=({"role": "user", "content": prompt},),
            completion=line if self.target == "label" else f"{working}\n{line}",
            reference={
                "form": "integer" if is_count else "decimal",
                "answer": _format(answer),
                "lower": answer - margin,
                "upper": answer + margin,
            },
            group=problem.calculator.name,
        )


@dataclass(frozen=True)
class Problem:
    """A calculator and the values of a patient.

    Attributes:
        drawn: {name: value}, drawn at random.
        findings: The sentences of the note.
        points: The points of a score's criteria, in their order; empty for an equation.
    """

    calculator: Equation | Score
    drawn: Mapping[str, Any]
    findings: tuple[str, ...]
    points: tuple[int, ...] = ()


def _draw_problem(calculator: Equation | Score, draw: random.Random) -> Problem:
    """Draw a patient. A criterion that is not met is either denied or not mentioned."""
    drawn: dict[str, Any] = {}
    for name, values in calculator.draws.items():
        names, chosen = name.split(", "), draw.choice(values)
        drawn.update(zip(names, chosen if len(names) > 1 else (chosen,), strict=True))
    findings, points = list(calculator.findings), []
    if isinstance(calculator, Score):
        for criterion in calculator.criteria:
            is_met = draw.random() < 0.5
            points.append(criterion.points if is_met else 0)
            if is_met or draw.random() < 0.5:
                findings.append(criterion.met if is_met else criterion.unmet)
    said = tuple(_fill(finding, drawn) for finding in findings)
    return Problem(calculator, drawn, said, tuple(points))


def _solve(problem: Problem) -> tuple[str, str, float, bool]:
    """(rule, working, answer, whether the answer is a count)."""
    calculator, quantity = problem.calculator, problem.calculator.quantity
    if isinstance(calculator, Equation):
        rule = f"{quantity} = {calculator.formula}"
        answer = round(_evaluate(calculator.result, problem.drawn), 1)
        working = _fill(calculator.working, problem.drawn)
        return (
            f"Use {rule}.",
            f"{rule} = {working} = {_format(answer)}.",
            answer,
            calculator.is_count,
        )
    names = [criterion.name for criterion in calculator.criteria]
    worth = ", ".join(f"{one.name} {one.points}" for one in calculator.criteria)
    given = ", ".join(f"{name} {n}" for name, n in zip(names, problem.points, strict=True))
    added, answer = " + ".join(map(str, problem.points)), sum(problem.points)
    working = f"The points: {given}. {quantity} = {added} = {answer}."
    return f"Add the points: {worth}.", working, answer, True


def _note(problem: Problem, draw: random.Random) -> str:
    unneeded = draw.choice(_UNNEEDED).format(
        hemoglobin=draw.randint(110, 159) / 10,
        saturation=draw.randint(94, 99),
        platelets=draw.randint(160, 390),
    )
    findings = [*problem.findings, unneeded]
    draw.shuffle(findings)
    opening = draw.choice(_OPENINGS).format(draw.choice(_COMPLAINTS))
    return " ".join([opening, *findings])


def _fill(text: str, drawn: Mapping[str, Any]) -> str:
    """The text with every {name} and every {expression} replaced by its value."""

    def shown(match: re.Match[str]) -> str:
        inside = match[1]
        return _format(drawn[inside] if inside in drawn else _evaluate(inside, drawn))

    return re.sub(r"\{([^{}]*)\}", shown, text)


def _evaluate(expression: str, drawn: Mapping[str, Any]) -> float:
    numbers = re.sub(r"[a-z]+", lambda name: str(drawn[name[0]]), expression)
    result = parse_expression(numbers)
    if result is None:
        raise ValueError(f"{expression} is no arithmetic: {numbers}")
    return result


def _format(given: str | float) -> str:
    """A number with at most two decimals, without trailing zeros; a word as it is."""
    if isinstance(given, str):
        return given
    return f"{given:.2f}".rstrip("0").rstrip(".")
