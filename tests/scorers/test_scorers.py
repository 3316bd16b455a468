"""Arithmetic in text, parsed; the scorers for users' own data."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.scorers.numbers import parse_expression
from talr_cli.scorers.text import Choice, ExactMatch, Numeric

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
