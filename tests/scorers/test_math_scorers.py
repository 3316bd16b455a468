"""Final answers: GSM8K's on its own rows, MATH's in the forms models really use, and attacks."""

import json
import os
import signal
import sys
from threading import Timer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.errors import UserError
from talr_cli.runs import process
from talr_cli.scorers import math as math_scorers
from talr_cli.scorers.math import (
    Gsm8kScorer,
    MathScorer,
    last_box,
    stated_answer,
)

gsm8k = Gsm8kScorer()

WAYS = [
    "#### {}",
    "That makes {0} in all.\nThe answer is: {0}",
    "3 * 4 = 12.\n\nThe answer is: ${}",
    "The final answer is **{}**.",
    "Therefore the answer is {} dollars, paid over 3 days.",
    "So we get \\boxed{{{}}}.",
    "The answer is: $\\boxed{{{}}}$",
    "First \\boxed{{12345}}, no: \\boxed{{\\${}}}",
    "12 apples and 7 pears make {}",
    "#### Step 2: add\n5 + 6, so {}",
]


@pytest.fixture
def gsm8k_rows(real_data):
    with (real_data / "gsm8k_test.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 1319
    return [(row["answer"], row["answer"].rpartition("####")[2].strip()) for row in rows]


def test_the_gold_answer_of_every_row_scores_1(gsm8k_rows):
    for gold, answer in gsm8k_rows:
        assert gsm8k(gold, {"answer": answer}).correct, gold


def test_the_answer_scores_1_in_every_form_and_0_when_off_by_one(gsm8k_rows):
    for _, answer in gsm8k_rows:
        value = int(answer.replace(",", ""))
        for way in WAYS:
            for text in (str(value), f"{value:,}", f"{value}.00"):
                output = way.format(text)
                assert gsm8k(output, {"answer": answer}).correct, output
            for wrong in (value - 1, value + 1):
                output = way.format(wrong)
                assert not gsm8k(output, {"answer": answer}).correct, output


@pytest.mark.parametrize(
    ("written", "value"),
    [("2\\frac{1}{2}", "2.5"), ("2\\dfrac{3}{2}", "3"), ("2\\frac22", "2"), ("2\\frac02", "0")],
)
def test_a_number_before_a_fraction_is_added_where_that_is_a_part_of_one(written, value):
    assert gsm8k(f"The answer is ${written}$.", {"answer": value}).correct


def test_off_by_one_in_ten_million_is_wrong():
    assert not gsm8k("The answer is: 10000001", {"answer": "10000000"}).correct


@pytest.mark.parametrize("output", ["", "I do not know.", "The answer is: unknown", "\\boxed{}"])
def test_without_a_number_there_is_no_answer(output):
    verdict = gsm8k(output, {"answer": "0"})
    assert not verdict.correct
    assert verdict.parsed is None


@pytest.mark.parametrize(
    ("output", "stated"),
    [
        ("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}"),
        ("\\boxed{\\{1, 2\\}} and no more", "\\{1, 2\\}"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{1}. Wait. The answer is: 2", "2"),
        ("The answer is: 2. Wait, \\boxed{1}", "1"),
        ("The answer is:\n7", None),
        ("\\boxed{never closed", None),
        ("no statement 7", None),
        ("<answer>5</answer>", "5"),
        ("<answer>\n\\frac12\n</answer>\nDone.", "\\frac12"),
        ("<answer>\\boxed{5}</answer>", "5"),
        ("<answer></answer>", None),
        ("So it is a half. #### \\frac{1}{2}\n", "\\frac{1}{2}"),
        ("#### Step 1\nIt is 7", None),
        ("#### **#### p - q**", "p - q**"),
        ("\\boxed{p - q}. So the final answer is clearly given above.", "p - q"),
        ("\\boxed{7}. The answer is: Given above.", "7"),
        ("\\boxed{7}, and so \\boxed{}", "7"),
        ("The final answer is: an odd number", "an odd number"),
    ],
)
def test_the_last_statement_counts(output, stated):
    assert stated_answer(output) == stated


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("The answer is 18. Wait, no. The answer is 17.", "17"),
        ("\\boxed{18}\nThat was wrong. The answer is: 17. It is 1 less.", "17"),
        ("#### 18\nThe answer is 17.\nThere are 3 left.", "17"),
        ("The answer is 17.\n\n(That is 8.5 each for 2.)", "17"),
        ("The answer is 17kg", "17"),
        ("The answer is $1.7 \\times 10^{1}$", "17"),
        ("Answer: 17\nNote: 3 eggs are left.", "17"),
    ],
)
def test_an_answer_taken_back_does_not_count_nor_what_follows_the_last(output, value):
    assert gsm8k(output, {"answer": value}).correct
    for other in ("18", "3", "1", "2"):
        assert not gsm8k(output, {"answer": other}).correct
    assert stated_answer("The answer is $x$. No. The answer is $y$.") == "$y$."


def test_last_box_reads_boxes_alone():
    assert last_box("The answer is: 3") is None
    assert last_box("\\boxed{1}, \\fbox{2}") == "2"


@given(st.text(alphabet="\\boxed{}$#. answeri0123456789:\n", max_size=200))
def test_any_output_is_read_without_an_error(output):
    gsm8k(output, {"answer": "1"})


def test_without_math_verify_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr(math_scorers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[math\]'"):
        MathScorer()


# What needs math-verify.


@pytest.fixture(scope="module")
def score():
    pytest.importorskip("math_verify")
    scorer = MathScorer()
    return lambda output, answer: scorer(output, {"answer": answer})


@pytest.mark.parametrize(
    ("answer", "written"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("\\frac{1}{2}", "\\dfrac12"),
        ("\\frac{14}{3}", "14/3"),
        ("11\\sqrt{2}", "\\sqrt{242}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
        ("p - q", "-q+p"),
        ("x^2+2x+1", "(x+1)^2"),
        ("10,\\!080", "10080"),
        ("90^\\circ", "90"),
        ("12", "12\\text{ cm}"),
        ("12", "12^{\\mathrm{th}} \\text{ floor}"),
        ("\\text{Evelyn}", "Evelyn"),
        ("1,-2", "-2,1"),
        ("5", "x=5"),
        ("50", "50\\%"),
        ("50\\%", "50"),
        ("90^\\circ", "90\u00b0"),
        ("2\\sqrt{3}", "2\u221a3"),
        ("2\\sqrt{x+1}", "2\u221a(x+1)"),
        ("x^{10}+1", "x\u00b9\u2070+1"),
        ("[1,\\infty)", "[1, \u221e)"),
        ("\\frac{5}{2}", "2\u00bd"),
        ("10000", "10\\,000"),
        ("\\text{June 20}", "June 20"),
        (
            "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
            "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}",
        ),
    ],
)
@pytest.mark.parametrize(
    "way",
    ["So it is $\\boxed{{}}$.", "It follows.\nThe answer is: {}", "The answer is ${}$, done."],
)
def test_equal_answers_score_1_in_every_form(score, answer, written, way):
    assert score(way.replace("{}", written, 1), answer).correct
    assert score(way.replace("{}", answer, 1), answer).correct


@pytest.mark.parametrize(
    ("answer", "written"),
    [
        ("\\frac{1}{2}", "\\frac{1}{3}"),
        ("10", "11"),
        ("1234567", "1234568"),
        ("x^2+2x+1", "x^2+2x+2"),
        ("(1,2)", "(2,1)"),
        ("1,-2", "1,2"),
        ("50", "51\\%"),
        ("\\text{east}", "\\text{west}"),
        ("10", "3, 7"),
        ("x2", "x\u00b2"),
        ("\\frac{1}{2}", "\\frac{1}{" * 300 + "2" + "}" * 300),
    ],
)
def test_other_answers_score_0(score, answer, written):
    assert not score(f"\\boxed{{{written}}}", answer).correct


@pytest.mark.parametrize(
    ("output", "answer", "is_right"),
    [
        ("**Answer:** $17.$", "17", True),
        ("The answer is $5$ or $6$.", "5", False),
        ("The answer is $5$ or $6$.", "5,6", True),
        ("The answers: the answer is $1$, $2$, and $3$.", "1,2,3", True),
        ("The answer is $5$ because $2 + 3 = 5$.", "5", True),
        ("The answer is not $5$.", "5", False),
        ("The answer isn't $5$.", "5", False),
    ],
)
def test_all_formulas_that_are_offered_are_the_answer(score, output, answer, is_right):
    assert score(output, answer).correct == is_right


def test_an_answer_of_many_open_formulas_is_read_at_once(score):
    """One that took quadratic time would take minutes."""
    assert not score("The answer is " + "\\(" * 300_000, "5").correct


def test_without_a_statement_the_last_number_counts(score):
    verdict = score("3 and 4 make 1,000,007", "1000007")
    assert (verdict.correct, verdict.parsed) == (True, "1000007")
    assert score("nothing", "3").parsed is None


def test_a_comparison_that_hangs_is_ended_and_the_next_one_works(score, monkeypatch, caplog):
    monkeypatch.setattr(math_scorers, "DEADLINE", 2.0)
    assert not score("\\boxed{9^{9^{9^{9}}}}", "\\frac{1}{2}").correct
    assert "not compared with \\frac{1}{2} (not done in 2 s)" in caplog.text
    monkeypatch.setattr(math_scorers, "DEADLINE", 60.0)
    assert score("\\boxed{0.5}", "\\frac{1}{2}").correct


def test_what_else_the_machine_does_changes_no_score(monkeypatch):
    scorer = MathScorer()
    assert scorer("\\boxed{0.5}", {"answer": "\\frac{1}{2}"}).correct
    monkeypatch.setattr(math_scorers, "DEADLINE", 1.0)
    pid = scorer._comparer._process.pid
    with monkeypatch.context() as patched:
        # As if it was ready and got no core for longer than the deadline.
        patched.setattr(process, "_fields", lambda stat: ["R"])
        os.kill(pid, signal.SIGSTOP)
        Timer(3.0, os.kill, (pid, signal.SIGCONT)).start()
        assert scorer("\\boxed{0.25}", {"answer": "\\frac{1}{4}"}).correct
    os.kill(pid, signal.SIGKILL)  # as if the memory was short
    assert scorer("\\boxed{0.2}", {"answer": "\\frac{1}{5}"}).correct
    assert scorer._comparer._process.pid != pid


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('pathlib').Path('PWNED').touch()",
        "\\text{__import__('pathlib').Path('PWNED').touch()}",
        "\\operatorname{__import__('pathlib').Path('PWNED').touch()}",
        "1 if open('PWNED', 'w') else 2",
        "[open('PWNED', 'w')][0]",
        "\\mathrm{exec}(\"open('PWNED', 'w')\")",
        "1; open('PWNED', 'w')",
    ],
)
@pytest.mark.parametrize("way", ["\\boxed{{}}", "The answer is: {}", "The answer is: ${}$"])
def test_code_in_an_answer_does_not_run(score, attack, way, tmp_path):
    target = tmp_path / "pwned"
    output = way.replace("{}", attack.replace("PWNED", str(target)), 1)
    assert not score(output, "5").correct
    assert not target.exists()
