"""MedCalc-Bench's rule on the real rows, in the forms models really use; the users' scorers."""

import csv
import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.evaluation.scorers.medcalc import MedCalcScorer, answer_form, read_number
from talr_cli.evaluation.scorers.numbers import find_numbers, normalise, parse_expression
from talr_cli.evaluation.scorers.text import Choice, ExactMatch, Numeric

score = MedCalcScorer()


def reference(row):
    answer, lower, upper = (
        row[key] for key in ("Ground Truth Answer", "Lower Limit", "Upper Limit")
    )
    return {
        "form": answer_form(answer, lower, upper),
        "answer": answer,
        "lower": lower,
        "upper": upper,
    }


@pytest.fixture(params=["medcalc_train.csv", "medcalc_dev.csv"])
def real_rows(request, real_data):
    with (real_data / request.param).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


WAYS = [
    "{}",
    "Answer: {}",
    "**Answer:** {}",
    "The result follows.\nAnswer: {}\n",
    'Step 1 gives 12.\n{{"step_by_step": "x", "answer": "{}"}}',
    '```json\n{{"answer": "{}"}}\n```',
    "So the final answer is \\boxed{{{}}}.",
    "Answer: $\\boxed{{{}}}$",
    "answer = {}",
]
NUMBER_WAYS = ["Answer: {} mL/min", "Answer: {}%", "Answer: {} kg/m^2.", "a / b = {} kg/m²"]


def test_the_truth_scores_1_in_every_form(real_rows):
    for row in real_rows:
        truth = reference(row)
        assert truth["form"] is not None, row["Row Number"]
        ways = [*WAYS, *(NUMBER_WAYS if truth["form"] in ("decimal", "integer") else ())]
        for way in ways:
            if "'" in truth["answer"] and '"' in way:
                continue  # a tuple with quotes is no JSON string of this form
            output = way.format(truth["answer"])
            assert score(output, truth).correct, (row["Row Number"], output)


def test_the_truth_moved_outside_its_limits_scores_0(real_rows):
    for row in real_rows:
        truth = reference(row)
        if truth["form"] == "date":
            day = datetime.strptime(truth["answer"], "%m/%d/%Y") + timedelta(days=1)
            wrong = [f"{day:%m/%d/%Y}"]
        elif truth["form"] == "weeks_days":
            weeks, days = (int(part) for part in find_numbers(truth["answer"]))
            wrong = [f"({weeks} weeks, {days + 1} days)", f"({weeks + 1} weeks, {days} days)"]
        elif truth["form"] == "integer":
            wrong = [str(int(float(truth["answer"])) + step) for step in (-1, 1)]
        else:
            lower, upper = float(truth["lower"]), float(truth["upper"])
            span = max(upper - lower, abs(upper), 0.1)
            wrong = [repr(round(lower - 0.05 * span, 6)), repr(round(upper + 0.05 * span, 6))]
        for answer in wrong:
            assert not score(f"Answer: {answer}", truth).correct, (row["Row Number"], answer)


def test_forms_go_by_the_answer_not_by_the_split(real_rows):
    """Weeks and days are `integer` in one split's Output Type and `date` in the other's."""
    for row in real_rows:
        if "weeks" in row["Ground Truth Answer"]:
            assert reference(row)["form"] == "weeks_days"


def decimal(answer, lower, upper):
    return {"form": "decimal", "answer": str(answer), "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("67.0", 67),
        ("67 mL/min", 67),
        ("53.1%", 53.1),
        ("3 out of 5", 3),
        ("3/5", 0.6),
        ("1,234.5", 1234.5),
        ("\u22123.5", -3.5),
        ("**23.4**", 23.4),
        ("BMI = 70 / (1.75 * 1.75) = 22.9 kg/m^2", 22.9),
        ("(120 + 2 * 80) / 3", 280 / 3),
        ("1.5e3", 1500),
        ("1.5 x 10^3", 1500),
        ("about 12.5 mg of the drug, given over 24 hours", 12.5),
        ("\\( 12.5 \\)", 12.5),
        (".5", 0.5),
        ("2^10", 1024),
    ],
)
def test_numbers_as_models_write_them(output, value):
    assert read_number(normalise(output)) == pytest.approx(value)


@pytest.mark.parametrize(
    "output", ["", "   ", "I cannot answer that.", "Answer:", "Answer: unknown", "None", "n/a"]
)
@pytest.mark.parametrize("form", ["decimal", "integer", "date", "weeks_days"])
def test_refusals_and_empty_outputs_score_0(output, form):
    truth = {"form": form, "answer": "0", "lower": "0", "upper": "0"}
    verdict = score(output, truth)
    assert not verdict.correct
    assert verdict.parsed is None


def test_decimals_count_up_to_the_limits_themselves():
    truth = decimal(100, "95.0", "105.0")
    assert score("95", truth).correct
    assert score("105.0", truth).correct
    assert not score("94.9", truth).correct


def test_equal_limits_mean_the_truth_to_its_last_digit():
    truth = decimal("6.946", "6.946", "6.946")
    assert score("6.946", truth).correct
    assert score("6.9463", truth).correct
    assert not score("6.95", truth).correct


def test_scores_are_rounded_before_they_are_compared():
    truth = {"form": "integer", "answer": "3", "lower": "3", "upper": "3"}
    assert score("Answer: 3.2", truth).correct
    assert not score("Answer: 3.6", truth).correct


def test_the_last_statement_counts():
    assert score("Answer: 4\nWait.\nAnswer: 5", decimal(5, 5, 5)).correct


def test_an_unknown_form_raises_and_does_not_score_0():
    with pytest.raises(ValueError, match="unknown form"):
        score("5", {"form": "lab", "answer": "5", "lower": "5", "upper": "5"})
    assert answer_form("high", "high", "high") is None
    assert answer_form("5", "6", "7") is None


@given(st.text(max_size=200))
def test_any_output_is_scored_without_an_error(output):
    for form, answer in (
        ("decimal", "1.5"),
        ("date", "01/02/2003"),
        ("weeks_days", "2 weeks 1 day"),
    ):
        score(output, {"form": form, "answer": answer, "lower": "1", "upper": "2"})


@given(st.floats(min_value=-1e9, max_value=1e9), st.integers(min_value=0, max_value=6))
def test_formatted_numbers_are_read_back(value, digits):
    for text in (f"{value:.{digits}f}", f"{value:,.{digits}f}", f"{value:.{digits}e}"):
        expected = float(text.replace(",", ""))
        assert read_number(f"{text}") == pytest.approx(expected, abs=0, rel=1e-12)
        assert read_number(f"the value = {text} mmol/L") == pytest.approx(expected, rel=1e-12)


arithmetic = st.recursive(
    st.integers(min_value=1, max_value=99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=12,
)


@given(arithmetic)
def test_expressions_agree_with_python(text):
    try:
        expected = eval(text)  # our own generated arithmetic, not a model's output
    except ZeroDivisionError:
        assert parse_expression(text) is None
    else:
        assert math.isclose(parse_expression(text), expected, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("text", ["9^9^9^9", "((((1", "__import__('os')", "1 +", "2 ** 3 **", "()"])
def test_what_is_no_small_expression_is_none(text):
    assert parse_expression(text) is None


def test_exact_match_folds_case_space_and_a_full_stop():
    assert ExactMatch()("  The  sea.", {"answer": "the sea"}).correct
    assert not ExactMatch()("the seas", {"answer": "the sea"}).correct
    assert ExactMatch()("", {"answer": "x"}).parsed is None


def test_numeric_takes_the_last_number():
    assert Numeric()("first 3, so 1,200 apples", {"answer": "#### 1200"}).correct
    assert not Numeric()("none", {"answer": "4"}).correct


def test_choice_is_a_whole_word_and_the_longest_one():
    choices = {"choices": ["Exact", "Substitute", "Exact match"], "answer": "Exact"}
    assert Choice()("It is Exact.", choices).correct
    assert not Choice()("It is an exact match", choices).correct
    assert Choice()("Exactly", choices).parsed is None
