"""Arithmetic in text, parsed; the scorers for users' own data."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.scorers.arithmetic import parse_expression
from talr_cli.scorers.choice import Choice
from talr_cli.scorers.text import ExactMatch, Numeric

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
def test_text_that_is_no_small_expression_is_not_computed(text):
    assert parse_expression(text) is None


def test_an_age_may_be_an_exponent():
    assert parse_expression("142 * 0.9938^70") == pytest.approx(
        142 * math.exp(70 * math.log(0.9938))
    )


def test_exact_match_folds_case_space_and_a_full_stop():
    assert ExactMatch()("  The  sea.", {"answer": "the sea"}).correct
    assert not ExactMatch()("the seas", {"answer": "the sea"}).correct
    assert ExactMatch()("", {"answer": "x"}).parsed is None


def test_exact_match_normalises_the_encoding_of_accents():
    """An accent of its own and a letter with one look alike."""
    assert ExactMatch()("Cafe\u0301", {"answer": "Caf\u00e9"}).correct
    assert not ExactMatch()("Cafe", {"answer": "Caf\u00e9"}).correct


@given(st.integers(10**6, 10**15), st.integers(1, 9))
def test_numeric_compares_whole_numbers_exactly(number, more):
    assert Numeric()(f"{number:,}", {"answer": str(number)}).correct
    assert Numeric()(f"{number}.0", {"answer": number}).correct
    assert not Numeric()(str(number + more), {"answer": str(number)}).correct
    assert Numeric()(f"{number}.0000001", {"answer": number}).correct


@pytest.mark.parametrize(
    ("output", "answer", "correct"),
    [("3.1415926", "3.14159", True), ("3.1416", "3.14159", False), ("1000000", "1000000.9", True),
     ("1000000", "1000001.5", False), ("1000000.9", "1000000", True)],
)  # fmt: skip
def test_numeric_compares_other_numbers_to_a_millionth(output, answer, correct):
    assert Numeric()(output, {"answer": answer}).correct == correct


@pytest.mark.parametrize("answer", ["5 ft 3 in", "1e400", "5-6", "0x10"])
def test_numeric_accepts_nothing_for_a_reference_that_is_no_number(answer):
    for output in (answer, "5", "3", "inf", "0", f"Answer: {answer}"):
        assert not Numeric()(output, {"answer": answer}).correct


def test_numeric_takes_the_last_number():
    assert Numeric()("first 3, so 1,200 apples", {"answer": "#### 1200"}).correct
    assert not Numeric()("none", {"answer": "4"}).correct


def test_choice_is_a_whole_word_and_the_longest_one():
    choices = {"choices": ["Exact", "Substitute", "Exact match"], "answer": "Exact"}
    assert Choice()("It is Exact.", choices).correct
    assert not Choice()("It is an exact match", choices).correct
    assert Choice()("Exactly", choices).parsed is None


LETTERS, WORDS = ["A", "B", "C", "D"], ["yes", "no", "unclear"]


@pytest.mark.parametrize(
    ("output", "choices", "named"),
    [
        ("b)", LETTERS, "B"),
        ("**B**", LETTERS, "B"),
        ("B. Paris is the capital", LETTERS, "B"),
        ("The answer is B because it is a fruit.", LETTERS, "B"),
        ("Answer: b since a dog is an animal", LETTERS, "B"),
        ("The answer is B. The options A, C and D are wrong.", LETTERS, "B"),
        ("Answer: B\n\nExplanation: A is a city.", LETTERS, "B"),
        ("B\n\nA is wrong", LETTERS, "B"),
        ("A dog is an animal. So it is B", LETTERS, "B"),
        ("A) Paris is wrong. B) London is right. So B", LETTERS, "B"),
        ("A is wrong, so the answer is C", LETTERS, "C"),
        ("It must be C, not A.", LETTERS, "C"),
        ("The answer is not A but B", LETTERS, "B"),
        ("\\boxed{\\text{B}}", LETTERS, "B"),
        ('{"label": "B", "reason": "not A"}', LETTERS, "B"),
        ('{"label": "A"}\nNo:\n{"label": "B"}', LETTERS, "B"),
        ("Answer: a dog", LETTERS, None),
        ("Answer: a) Rome", LETTERS, "A"),
        ("It is Oslo", ["Oslo.", "Rome."], "Oslo."),
        ("Oslo", ["Oslo.", "Rome."], "Oslo."),
        ("The answer is B because it fits", ["A.", "B."], "B."),
        ("Which ... is it?", ["...", "Oslo"], "..."),
        ("I think a cat", LETTERS, None),
        ("It is not B", LETTERS, None),
        ("Either B or C.", LETTERS, None),
        ("Both A and B", LETTERS, None),
        ("Answer: B or C", LETTERS, None),
        ("Yes, there is no doubt.", WORDS, "yes"),
        ("**Yes**\n\nThere is no evidence against it", WORDS, "yes"),
        ("Answer: yes, no doubt", WORDS, "yes"),
        ("I would say yes", WORDS, "yes"),
        ("yes or no", WORDS, None),
        ("Verdict: no\nReason: yes would need a proof", WORDS, "no"),
        ("This is not toxic.", ["toxic", "not toxic"], "not toxic"),
        ("I use C# here", ["C", "C++", "C#"], "C#"),
        ("The label is -1", ["1", "-1"], "-1"),
        ("1 million", ["1 million", "2 million"], "1 million"),
        ("5k²", ["5k²", "6k²"], "5k²"),
        # Several are none.
        ("A, B", LETTERS, None),
        ("Answer: A, C", LETTERS, None),
        ("Answer: all of A, B, C", LETTERS, None),
        ("Answer: A\nAnswer: B or C", LETTERS, None),
        ("Answer: B because it beats A, C and D", LETTERS, "B"),
        ("Yes.\nNo.", ["yes", "no"], "no"),
        ("A. Too small.\nB. It fits, so B.", LETTERS, "B"),
        ("A & B", LETTERS, None),
        ("A, B, C or D? C", LETTERS, "C"),
        ("yes & no", WORDS, None),
        ("yes, no, unclear", WORDS, None),
        ("yes, no doubt", WORDS, "yes"),
        ("A. Rome\nB. Oslo\nC. Bonn\nD. Cork", LETTERS, None),
        ("A. Rome\nB. Oslo\nC. Bonn\nD. Cork\n\nB", LETTERS, "B"),
        ("1. yes\n2. no\n3. unclear", WORDS, None),
        # What is denied is not meant.
        ("B is right because A is wrong", LETTERS, "B"),
        ("A, B and C are wrong. D.", LETTERS, "D"),
        ("Answer: A is not correct; B", LETTERS, "B"),
        ("It's A, B is wrong", LETTERS, "A"),
        ("It is non-toxic", ["toxic", "harmful"], None),
        ("It is non-toxic", ["toxic", "non-toxic"], "non-toxic"),
        # What is said in brackets or below is a reason.
        ("Oslo (Rome is larger)", ["Rome", "Oslo"], "Oslo"),
        ("**B) Oslo**\n\nExplanation: A) is false", LETTERS, "B"),
        ("A... wait, B", LETTERS, "B"),
        # A word is not always the choice that it looks like.
        ("I have no idea", WORDS, None),
        ("Definitely yes, no question", WORDS, "yes"),
        ("There is no need. No.", WORDS, "no"),
        ("Answer: C#", ["C", "C++", "C#"], "C#"),
        # Numbers: neither signs, parts, ranges nor the most that there is.
        ("-1", list("12345"), None),
        ("4.5", list("12345"), None),
        ("1-2", list("12345"), None),
        ("3/5", list("12345"), "3"),
        ("I give it 2 out of 5", list("12345"), "2"),
        ("I give it 8 out of 10", [str(one) for one in range(1, 11)], "8"),
        ("Rating: 5/5 stars", list("12345"), "5"),
        ("4 stars out of 5 stars", list("12345"), "4"),
        ("I give it 4 of 5", list("12345"), "4"),
        ("Answer: all but B", LETTERS, None),
        ("Anything except (B).", LETTERS, None),
        ("It's hardly positive.", ["positive", "negative"], None),
        ('{"final_answer": "B", "not": "A"}', LETTERS, "B"),
        ("\u7b54\u6848\u662fB", LETTERS, "B"),
        ("\u200bB\u200b", LETTERS, "B"),
        (
            "A) This is incorrect.\nB) This is correct.\n\nThus, the correct answer is B.",
            LETTERS,
            "B",
        ),
        ("A, C and D can be ruled out, leaving B.", LETTERS, "B"),
        ("It's not A, C, or D. So B.", LETTERS, "B"),
        ("The answer is (B). The others, (A), (C) and (D), do not fit.", LETTERS, "B"),
        ("La bonne r\u00e9ponse est B.", LETTERS, "B"),
        ("Answer: AB", LETTERS, None),
        ("BBBB", LETTERS, None),
        ("A patient with this history needs surgery.", LETTERS, None),
        ("It is neither no nor unclear; it is yes.", WORDS, "yes"),
        ("Label: no (neither yes nor unclear)", WORDS, "no"),
        ("No. Yes in other populations.", WORDS, "no"),
        ("\u6b63\u89e3\u306fB\u3067\u3059\u3002", LETTERS, "B"),
        ("\uc815\ub2f5\uc740 B\uc785\ub2c8\ub2e4.", LETTERS, "B"),
        ("\u7b54\u6848\u662fB\u9009\u9879\u3002", LETTERS, "B"),
        ("B, or rather C", LETTERS, "C"),
        ("Answer: B, or rather C", LETTERS, "C"),
        ("It is a hit or a miss.", ["hit", "miss"], None),
        ("It is not exactly a hit.", ["hit", "miss"], None),
        # In prose a letter is a choice only where it is set off as one: C is also coulomb.
        ("It cools from 40 °C to 5° C, and the charge is 3 C", LETTERS, None),
        ("Let A = 3 and B = 4. Then D is the set of all", LETTERS, None),
        ("\\Delta H is 500 J, so F_1 = m A", list("ADFHJ"), None),
        ("I'm sorry, but I can't help with that.", ["H", "I"], None),
        ("The nearest option is (B) with 4.6 * 10^2 J", list("BJ"), "B"),
        ("From P(A) and f(C) follows option B here", LETTERS, "B"),
        ("Hence the true statement is:\n\nC. Rome fell in 476.", LETTERS, "C"),
        ("C is false. This leaves D, which fits at 20 C", LETTERS, "D"),
        ("La respuesta es B, porque A = 3", LETTERS, "B"),
        ("The grade was C or so, so we need 5 C", LETTERS, None),
        # GSM8K's last line, also of those whose answers are letters.
        ("Which is the answer: A, B or C?\nA is 2. B is 3. So it is B. #### B", LETTERS, "B"),
        ("Both hold: A and C. #### A,C", LETTERS, None),
        ("#### Option A\nIt is too small.\n#### Option B\nIt fits, so B.", LETTERS, "B"),
        # Neither the article nor the pronoun is a choice, in a statement too.
        ("Answer: A dog is an animal", LETTERS, None),
        ("Answer: A because a dog is an animal", LETTERS, "A"),
        ("So I choose A because dogs bark.", LETTERS, "A"),
        ("The answer is a dog.", ["a", "b"], None),
        ("Answer: I don't know", ["H", "I"], None),
        ("The answer is I because it fits", ["H", "I"], "I"),
        ("I, too, would say H.", ["H", "I"], "H"),
        ("A person such as I, because of age, is wise.", ["H", "I"], None),
        # What is said behind a choice is why it is meant.
        ("The tone is positive because nothing is negative.", ["positive", "negative"], "positive"),
        ("It is negative, although it has positive words.", ["positive", "negative"], "negative"),
        ("It is negative (positive words are irony).", ["positive", "negative"], "negative"),
        ("A fails because it is old, but B is correct.", LETTERS, "B"),
        ("Since A is too small, B is correct.", LETTERS, "B"),
        ("The best choice is C (although B is close).", LETTERS, "C"),
        ("I would choose C over B.", LETTERS, "C"),
        ("It is more negative than positive.", ["positive", "negative"], "negative"),
        ("It isn't negative or positive.", ["positive", "negative"], None),
        ("It is not A, C or D, so B.", LETTERS, "B"),
        ("A can be ruled out.", LETTERS, None),
        ("I would not choose B.", LETTERS, None),
        ("B must be correct.", LETTERS, "B"),
        ("A, C and D are false; B is true.", LETTERS, "B"),
        ("Is it A? Is it B?", LETTERS, None),
        ("**B. Oslo**\n\nThe others:\n- **A. Rome**: no\n- **C. Bonn**: no", LETTERS, "B"),
        # Signs around a choice, labels in brackets, keys of JSON.
        ("\u2192 B", LETTERS, "B"),
        ("\u2705 **B) Oslo**", LETTERS, "B"),
        ("\u201cB\u201d", LETTERS, "B"),
        ("<final_answer>B</final_answer>", LETTERS, "B"),
        ("\u56e0\u6b64\uff0c\u7b54\u6848\u662f B\u3002", LETTERS, "B"),
        ("A resposta correta \u00e9 B.", LETTERS, "B"),
        ("The answer is B.", ["(A)", "(B)"], "(B)"),
        ("B", ["A)", "B)"], "B)"),
        ("(B) Oslo", ["(A)", "(B)"], "(B)"),
        ('{"A": false, "B": true, "C": false, "D": false}', LETTERS, None),
        ("lost\\_card", ["lost_card", "new_card"], "lost_card"),
        ("2,000", list("12345"), None),
        ("1 to 4", list("12345"), None),
        ("Score: 4 (out of 5)", list("12345"), "4"),
        ("-0.5", ["0.5", "1.5"], None),
    ],
)
def test_a_choice_is_the_one_stated_and_not_one_in_its_reason(output, choices, named):
    for answer in choices:
        verdict = Choice()(output, {"choices": choices, "answer": answer})
        assert (verdict.parsed, verdict.correct) == (named, answer == named)


@pytest.mark.parametrize(
    "said",
    [
        "not B", "neither B", "nor B", "never B", "hardly B", "rather than B", "instead of B",
        "except B", "except for B", "all but B", "everything but B", "anything but B", "any but B",
        "other than B", "isn't B", "cannot be B", "not exactly B", "not entirely B",
        "not actually B", "not truly B", "not a B", "not an B", "not the B", "not quite B",
        "not really B", "not option B", "non-B", 'not "B"', "not (B)", "B is wrong", '"B" is wrong',
        "B was wrong", "B would be wrong", "B is also wrong", "B is clearly incorrect",
        "B is ruled out", "B is not right", "B is not the correct one", "B is not a best one",
        "B isn't right", "B isn't the answer", "B and C are wrong", "B, C were both incorrect",
        "B, and C aren't right", '"B" and "C" are ruled out', "far from B",
        "I would not call it B", "one wouldn't say that it's B", "we do not consider this as B",
        "it cannot be considered B", "this isn't regarded as a B", "it does not qualify as B",
    ],
)  # fmt: skip
def test_a_denied_choice_does_not_count(said):
    for way in ("So {}.", "The answer is D; {}.", "Answer: {}"):
        found = Choice()(way.format(said), {"choices": LETTERS, "answer": "B"}).parsed
        assert found == ("D" if "D" in way else None)
    assert Choice()(f"Answer: {said}; D", {"choices": LETTERS, "answer": "D"}).correct


def test_no_before_a_word_denies_it():
    labels = {"choices": ["positive", "negative"], "answer": "positive"}
    assert Choice()("There is no positive word in it.", labels).parsed is None
    assert Choice()("Answer: positive. There is no negative word in it.", labels).correct
