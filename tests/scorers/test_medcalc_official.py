"""MedCalc-Bench's own reading, against what its published functions answer on the same outputs.

The values were got by running `extract_answer` and `check_correctness` of ncbi-nlp/MedCalc-Bench at
20b10f9, which is not done here because they evaluate outputs as code.
"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.scorers.medcalc import MedCalcScorer
from talr_cli.scorers.medcalc_official import judge


def number(calculator, answer, lower=None, upper=None):
    return {
        "form": "decimal",
        "answer": answer,
        "lower": lower or answer,
        "upper": upper or answer,
        "calculator": str(calculator),
    }


DECIMAL = number(2, "23.5", "22.325", "24.675")
SHARE = number(3, "0.235", "0.22325", "0.24675")
SCORE = number(4, "3")
DATE = {**number(13, "10/22/2021"), "form": "date"}
WEEKS = {**number(69, "('17 weeks', '6 days')"), "form": "weeks_days"}


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        (DECIMAL, "23.5", True),
        (DECIMAL, "23.5 kg", True),
        (DECIMAL, "24.4 mL/min/1.73 m²", True),
        (DECIMAL, "24.4 kg/m2", False),  # the last number is 2
        (DECIMAL, "23.5 (normal 18.5-24.9)", False),
        (DECIMAL, "23.5%", False),
        (SHARE, "23.5%", True),
        (SHARE, "23.5", False),
        (DECIMAL, "2350%", True),
        (DECIMAL, "1,023.5", True),  # reads 023.5
        (number(2, "1023.5", "1000", "1100"), "1,023.5", False),
        (DECIMAL, "str(20+3.5)", True),
        (DECIMAL, "str(-5 + 28.5)", True),
        (DECIMAL, "str(20 + 3.5 # less 9)", True),
        (DECIMAL, "str(round(23.456, 1))", True),
        (number(2, "25", "24", "26"), "str(5^2)", True),
        (number(3, "91.9", "91.8", "92.0"), "str(142 * 0.9938**70)", True),
        (number(2, "5", "4.75", "5.25"), "str(sqrt(25))", True),
        (DECIMAL, "str((20 + 3.5)", True),  # brackets are completed
        (DECIMAL, "str(__import__('os').getpid())", False),
        (DECIMAL, "X.XX", False),
        (SCORE, "3", True),
        (SCORE, "3 out of 5", True),
        (SCORE, "3/5", False),  # the last number is 5
        (SCORE, "5, 6, 7", True),  # a list of three
        (SCORE, "3.4", True),
        (SCORE, "2.5", False),  # halves to even
        (SCORE, "03", False),  # no number of Python's
        (SCORE, "N/A", False),
        ({**number(2, "3"), "form": "integer"}, "3.4", False),  # a decimal by its calculator
        (DATE, "10/22/2021", True),
        (DATE, "10/22/2021 or later", True),
        (DATE, "on 10/22/2021", False),
        (DATE, "2021-10-22", False),
        (DATE, "October 22, 2021", False),
        (WEEKS, "('17 weeks', '6 days')", True),
        (WEEKS, "(17, 6)", True),
        (WEEKS, "17 weeks, 6 days", True),
        (WEEKS, "17 weeks and 6 days", False),  # reads 1 and 7
        (WEEKS, "[17, 6]", True),
    ],
)
def test_answers_are_judged_as_by_the_published_functions(reference, answer, right):
    output = f'{{"step_by_step_thinking": "2 + 2 = 4", "answer": "{answer}"}}'
    assert judge(output, reference, is_json=True)[1] == right
    assert judge(f"2 + 2 = 4\nAnswer: {answer}", reference, is_json=False)[1] == right


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ('{"answer": "23.5"}', "23.5"),
        ('{"Answer": 23.5}', "23.5"),
        ('{"answer": "9"} no, {"answer": "23.5"}', "23.5"),
        ('{"answer":\n\n  "23.5"}', "23.5"),
        ('{"answer": "23.5"', None),  # not closed
        ('{"answer": "23.5"\n}', None),  # a line ends before the brace
        ("Answer: 23.5", None),
        ("23.5", None),
        ("", None),
    ],
)
def test_the_last_closed_field_is_read_and_nothing_else(output, found):
    assert judge(output, DECIMAL, is_json=True) == (found, found is not None)


def test_the_calculator_decides_and_without_one_the_form():
    """A score of 0 has the form of a decimal."""
    zero = number(4, "0")
    assert judge('{"answer": "0 out of 5"}', zero, is_json=True)[1]
    assert not judge('{"answer": "0 out of 5"}', {**zero, "calculator": ""}, is_json=True)[1]


def test_a_formula_is_arithmetic_and_never_code(tmp_path):
    target = tmp_path / "pwned"
    for code in (
        f"open('{target}', 'w')",
        f"[open('{target}', 'w')]",
        f"(lambda: open('{target}', 'w'))()",
        f"min.__self__.open('{target}', 'w')",
        "9**9**9**9",
        "(" * 200,
        "1e308*1e308",
    ):
        assert judge(f'{{"answer": "str({code})"}}', DECIMAL, is_json=True) == (None, False)
    assert not target.exists()


PIECES = [
    "answer", '"answer": ', "str(", "round(", ")", "(", "1", "0", ".", ",", "%", "-", "^", "}",
    " out of ", "/", "mL/min/1.73", " weeks", "٣", "²", "\n", '"', "e9",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES)).map("".join), st.sampled_from(["", "2", "4", "13", "69"]))
def test_any_output_is_judged_without_an_error(text, calculator):
    for row in (DECIMAL, SCORE, DATE, WEEKS):
        reference = {**row, "calculator": calculator or row.get("calculator")}
        for output in (text, f'{{"answer": "{text}"}}', f"Answer: {text}"):
            for is_json in (True, False):
                judge(output, reference, is_json)


def test_the_summary_is_the_share_by_that_reading():
    scorer = MedCalcScorer("official")
    outputs = [json.dumps({"answer": answer}) for answer in ("23.5", "23.5 kg/m2", "9")]
    verdicts = [scorer(output, DECIMAL) for output in [*outputs, "Answer: 23.5"]]
    assert [verdict.correct for verdict in verdicts] == [True, True, False, True]
    summary = scorer.summary(verdicts, [DECIMAL] * 4)["official"]
    error = math.sqrt(0.25 * 0.75 / 3)
    assert summary == {"score": 0.25, "stderr": pytest.approx(error), "n": 4, "read": 3}
    assert scorer.summary(verdicts[:1], [DECIMAL])["official"]["stderr"] is None
