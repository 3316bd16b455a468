"""What an output gives as its answer: forms of numbers, statements, remarks, days and weeks."""

import re
from datetime import date
from pathlib import Path

import pytest

from talr_cli.scorers.dates import read_date, read_weeks_days
from talr_cli.scorers.math import Gsm8kScorer
from talr_cli.scorers.medcalc import MedCalcScorer
from talr_cli.scorers.numbers import find_numbers, normalise
from talr_cli.scorers.statements import stated_answer
from talr_cli.scorers.text import Numeric
from talr_cli.scorers.values import final_number, read_number

medcalc = MedCalcScorer()
DOCS = Path(__file__).parents[2] / "docs" / "scorers.md"
TABLE = DOCS.read_text(encoding="utf-8").partition("| answer | read as |")[2].partition("\n\n")[0]
FORMS = [
    (form, None if value.startswith("none") else float(re.match(r"-?[\d.]*\d", value)[0]))
    for form, value in re.findall(r"^\| `(.+?)` \| (.+?) \|$", TABLE, re.MULTILINE)
]


def by_medcalc(output, form="decimal"):
    """What the scorer reads, as a number."""
    parsed = medcalc(output, {"form": form, "answer": "0", "lower": "0", "upper": "0"}).parsed
    return None if parsed is None else float(parsed)


def by_gsm8k(output):
    parsed = Gsm8kScorer()(output, {"answer": "0"}).parsed
    return None if parsed is None else float(parsed)


def by_numeric(output):
    parsed = Numeric()(output, {"answer": "0"}).parsed
    return None if parsed is None else float(parsed)


@pytest.mark.parametrize(
    "words",
    [
        "The answer to 6 * 7 is", "The answer for all of them is", "The answer of 6 * 7 is",
        "The answer in kg is", "The answer is:", "The answer is =", "Answer to 6 * 7:", "Answer =",
        "Answer \u2248", "Answer \u2192", "Answer:", "Answer (kg):", "Answer(kg) =", "(Answer):",
        "final_answer =", "finalAnswer:", "ANSWER:", "The clean answer:",
        "The answer will be, as said, answer:", "The answer was", "The answer equals",
        "The answer must be", "The answer would be", "The answer should be", "The answer has to be",
        "The answer comes out to", "The answer works out to", "The answer turns out to be",
        "The answer is therefore", "The answer is simply", "The answer is just",
    ],
)  # fmt: skip
def test_words_that_state_an_answer(words):
    assert stated_answer(f"Answer: 5\n{words} 42 of 9\nOr 7?") == "42 of 9"


@pytest.mark.parametrize(
    "words",
    [
        "There are 3 answers:", "Answered:", "The answer to this. It is", "Answer",
        "this answer:", "that answer:", "an answer:", "any answer:", "such answer:", "each answer:",
        "previous answer:", "above answer:", "your answer:", "wrong answer:",
    ],
)  # fmt: skip
def test_words_that_state_no_answer(words):
    assert stated_answer("##### 5") is None
    assert stated_answer("#### Step 1\nIt is 7") is None
    assert stated_answer("Answer: 5\nI am not so sure of the answer\n42") == "5"
    assert stated_answer(f"Answer: 5\n{words} 42") == "5"


@pytest.mark.parametrize(
    "value",
    [
        "42", "-42", "+42", ".5", "<5", ">5", "\u2264 5", "\u2265 5", '"42"', "'42'",
        "(42)", "[42]",
        "\u2248 42", "~42", "= 42", "*42*", "about 42", "approximately 42", "around 42",
        "roughly 42",
        "nearly 42", "equal to 42", "\\frac12x", "Monday, 10/22/2021", "Tuesday", "Wednesday",
        "Thursday", "Friday", "Saturday", "Sunday", "between 4 and 5", "less than 5",
        "more than 5", "greater than 5", "fewer than 5", "at least 5", "at most 5", "unknown",
        "unclear", "undetermined", "cannot be told", "can't be told", "not given", "none",
        "impossible to say", "n/a",
        "May 1, 2021", "Oct. 22, 2021", "September 1",
    ],
)  # fmt: skip
def test_values_that_are_stated_after_is(value):
    said = stated_answer(f"Answer: 5\nThe answer is {value}")
    assert said not in (None, "5")


@pytest.mark.parametrize(
    "remark",
    ["an estimate", "clear", "based on 3 facts", "given above: 4", "betweenness 4", "at last 5",
     "nonetheless 5", "notable", "decided by 3 facts", "Marked with 3 stars",
     "impossibly large", "lessened", "the sum of 4 and 5"],
)  # fmt: skip
def test_remarks_after_is_state_nothing(remark):
    assert stated_answer(f"Answer: 5\nThe answer is {remark}") == "5"


def test_the_table_of_the_docs_was_found():
    assert len(FORMS) > 30


@pytest.mark.parametrize("read", [by_medcalc, by_gsm8k, by_numeric])
@pytest.mark.parametrize(("form", "value"), FORMS)
def test_the_forms_of_the_docs_are_read_as_they_say(read, form, value):
    ways = ["Answer: {}", "The final answer is: {}\n\nIt is 5 kg more than in 1999."]
    if value is not None:
        ways += ["**Answer:** {}.", "So \\boxed{{{}}} holds for 12 of 20."]
    for way in ways:
        found = read(way.replace("{{{}}}", "{{}}").replace("{}", form, 1))
        assert found == (None if value is None else pytest.approx(value, rel=1e-5)), (way, form)


@pytest.mark.parametrize("read", [by_medcalc, by_gsm8k, by_numeric])
@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("Answer: 7\n\nPlease note that this answer is only an estimate for 2024.", 7),
        ("Answer: 7\n\nThe answer is based on 3 criteria.", 7),
        ("Answer: 7 mg\nTake 2 every 8 hours.", 7),
        ("Answer:\n- 7", 7),
        ("Answer:\n\n1. 7 kg", 7),
        ("Answer:\n1. Age: 1 point\n2. Stroke: 2 points\nTotal: 3 points", 3),
        ("Answer:\n- 7 kg/m²\n- Stage: 2", 7),
        ("## Final Answer\n\n7 kg", 7),
        ("### The Correct Answer\n7 kg of 9", 7),
        ("The answer\n\n7 kg of 9", 7),
        ("Answer:\n10. 7 kg of 9", 7),
        ("\\\\boxed{7}, or 5 less", 7),
        ("\\fbox{7}, or 5 less", 7),
        ("####7\n5 less.", 7),
        ("#### -7\n5 less.", -7),
        ("Answer: as follows:\nBMI = 63 / 3^2 = 7", 7),
        ("**Answer:**\n\n**7** kg", 7),
        ("<answer>7</answer> <b>12</b>", 7),
        ("Answer: $$\n7\n$$", 7),
        ("The answer is 18. Wait, no. The answer is 17.", 17),
        ("\\boxed{18}. Wait. Answer: 17", 17),
        ("Answer: 18\nThe answer is unknown.", None),
        ('{"answer": "Not Found", "n": 5}', None),
        ('{"answer": "7", "why": {"a": 2}}\n12', 7),
        ('{"answer": "$\\\\frac{14}{2}$"}', 7),
        ("Answer: The BMI of the 67-year-old is 7. Normal is 18.5.", 7),
        ("Answer: CHA2DS2-VASc score of 7", 7),
        ("Answer: 1 point for age + 6 points for stroke = 7 points", 7),
        ("Answer: \u2212 7", -7),
        ("answer: x = - 7", -7),
        ("Answer: total score - 7", 7),
        ("Answer: 7 \u00b1 0.5", 7),
        ("Answer: ~7", 7),
        ("Answer: three (7) points", 7),
        ("Answer: 1.2.3", None),
        ("**Final Answer:** $\\boxed{7}$ (of 9)", 7),
        ("Thus it is \\( \\boxed{\\$7} \\) of 9.", 7),
        ("\\boxed{x = 7}", 7),
        ("\\boxed{\\mathbf{7}}", 7),
        ("\\boxed{\\text{7 apples of 9}}", 7),
        ("I first thought it was 8, but actually the answer is 7.", 7),
        ("Answer: 7 (moderate risk, 12\u201316.6%)", 7),
        ("Answer: HEART score of 7 (moderate risk)", 7),
        ("Answer: MELD-Na = 7", 7),
        ("Answer: ~7 mOsm/kg H\u2082O", 7),
        ("Answer: \uff17", 7),
        ("Answer: \u0667", 7),
        ("Answer: >7", None),
        ("Answer: 50 mg of prednisone is equivalent to 7 mg of dexamethasone.", 7),
        ("Answer: 7 mmol/L, equivalent to 126 mg/dL", 7),
        ('{"answer": {"value": 7, "unit": "kg"}}', 7),
        ("Answer: US$7", 7),
        ("Answer: ('7 weeks', '2 days')", None),
        ("Answer: 63/(3)^2 = 7 kg/m^2", 7),
        ("Answer: 63 kg / ( 3 m)^2 = 7 kg/m^2", 7),
        ("Answer: $\\frac{63}{3^2} \\approx 7$", 7),
        ("Answer: \\frac{63}{3^2} kg/m^2", 7),
        ("Answer: 140 - (105 + 28) mEq/L", 7),
        ("Answer: 7 - (5 for age, 2 for stroke)", 7),
        ("Answer: 7 mL/(min*m) = stage 5", 7),
        ("Answer: The score is 7 because the patient is 78 years old (2) and has CHF (1).", 7),
        ("Answer: The calcium is 7 mg/dL, given that the albumin is 2.85 g/dL.", 7),
        ("Answer: Since the patient is 78 years old, the score is 7.", 7),
        ("Answer: The weight is 63 kg when the height is 3 m, so the BMI is 7.", 7),
        ("The answer isn't 7.", None),
        ("The answer isn\u2019t 7.", None),
        ("Answer: Not applicable, since 7 is given.", None),
        ("Answer: 84 divided by 12 = 7 kg", 7),
        ("Answer: 3.5 multiplied by 2", 7),
    ],
)
def test_the_statement_counts_and_not_what_is_around_it(read, output, value):
    assert read(output) == value


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("1. History: 1 point\n2. ECG: 2 points\nTotal: 1 (History) + 2 (ECG) + 1 (Age) = 4.", 4),
        ("Total = 4.\nThis corresponds to a 12-16% risk at 6 weeks.", 4),
        ("7 kg/m²\n\nIt was computed from 70 kg and 1.75 m.", 7),
        ("With a = -0.411, leading to a GFR of approximately 7 mL/min/1.73 m².", 7),
        ("The patient weighs 70 kg. The BMI is 7, more than the limit of 5.", 7),
        ("4. That is the score.", 4),
        ("1. Age counts 2 points. 2. Sum: 2 + 5 = 7. 3. Round it if needed.", 7),
        ("1. The height is 1.5 m. 2. So 18 / 1.5^2 = 8. 3. Less 12.5 %: 7 kg/m²", 7),
        ("Step 1: It is 3.\nStep 2: 3 + 4 = 7.\nStep 5: Round to the nearest one.", 7),
        ("It is 70 kg at 3.16 m.\nThis gives a BMI of 7.", 7),
        ("Two times 75 = 150, 6 more to get 156, by 22 to get ~7 mmHg.", 7),
        (
            "eGFR = 142 \u00d7 min(Scr/\u03ba, 1)^\u03b1 \u00d7 1.012 = 7 mL/min/1.73 m\u00b2",
            7,
        ),
        ("$$\\text{GFR} = 7\\ \\mathrm{mL/min/1.73\\,m^2}$$", 7),
        ("The BMI is within the normal range (18.5\u201324.9): **7 kg/m\u00b2**", 7),
        ("GCS = E3 + V4 + M0 = 7", 7),
        ("GCS 7 (E3V4M0)", 7),
        ("| Criterion | Points |\n|---|---|\n| CHF | 1 |\n| **Total** | **7** |", 7),
        ("- CHF: 1\n- HTN: 6\n\nIn all: 1 + 6 = 7\n\nThus it is 7, which means a 4.0% risk.", 7),
        ("The QTc is approximately 7.1 ms, which is <450 ms (normal for men).", 7.1),
        ("50 mg of prednisone is equivalent to about 7 mg of dexamethasone, not 9.", 7),
        ("LDL is 7 mg/dL, calculated from total cholesterol of 200 mg/dL.", 7),
        ("Criterion 8: met.\n\nThus, 7 of the 8 criteria are met.", 7),
    ],
)
def test_without_a_statement_medcalc_takes_the_result(output, value):
    assert by_medcalc(output) == value


@pytest.mark.parametrize(
    "bound",
    [
        "<", ">", "\u2264", "\u2265", "\u00b1", "#", "less than", "more than", "greater than",
        "fewer than", "lower than", "higher than", "no more than", "no less than", "at least",
        "at most", "under", "over", "above", "below", "up to", "between", "unknown, not",
        "unclear:", "undetermined,", "impossible:", "n/a,", "none of", "insufficient:",
        "not enough:", "cannot be told by", "can't be told by", "could not be told by",
        "it cannot be told by", "I cannot tell it by", "unable to tell it by",
        "we are unable to tell it by", "not possible:", "this is", "either",
    ],
)  # fmt: skip
def test_bounds_and_refusals_are_no_number(bound):
    assert read_number(f"{bound} 5 kg") == (5 if bound in ("this is", "either") else None)


@pytest.mark.parametrize(
    "about",
    [
        "about", "approximately", "approx.", "approx", "around", "roughly", "nearly", "equal to",
        "= about", "(~",
    ],
)  # fmt: skip
def test_two_numbers_after_about_are_no_answer(about):
    assert read_number(f"{about} 4 or 5 kg") is None
    assert read_number(f"{about} 4 kg of 5") == 4


@pytest.mark.parametrize(
    "what",
    [
        "point", "points", "criterion", "criteria", "item", "items", "feature", "features",
        "factor", "factors", "risk factors", "question", "sign", "signs", "symptoms",
        "conditions", "met",
    ],
)  # fmt: skip
def test_of_a_fraction_of_counted_things_the_first_number_counts(what):
    assert read_number(f"4/5 {what}") == 4
    assert read_number("4/5 metres") == 0.8


@pytest.mark.parametrize(
    "said",
    [
        "is", "was", "are", "equals", "will be", "is \u2248", "is about", "comes in at: ", "=",
        "\u2248", "\u2192", "about", "approximately", "approx.", "approx", "around", "roughly",
        "is equal to", "leads to", "lead to", "leading to", "results in", "resulting in", "gives",
        "giving", "yields", "yielding", "gets", "we get", "comes to", "totals", "for a total of",
    ],
)  # fmt: skip
def test_the_number_after_a_verb_of_result_counts(said):
    assert by_medcalc(f"With 3 of them it {said} 7 kg for 9 people.") == 7
    assert by_medcalc("With 3 of the total cholesterol it has 7 for 9 people.") == 9


@pytest.mark.parametrize(
    "remark",
    [
        "Note:", "Please take", "Remember", "This has", "These have", "That has",
        "Interpretation:", "Reference:", "Normal:", "Caution:", "Disclaimer:", "It means",
        "It indicates", "It suggests", "It corresponds to", "**Note** that",
    ],
)  # fmt: skip
def test_the_number_of_a_remark_is_not_the_answer(remark):
    assert by_medcalc(f"They weigh 7 kg.\n{remark} 9 of them.") == 7
    assert by_medcalc(f"They weigh 7 kg. {remark} 9 of them.") == 7


@pytest.mark.parametrize(
    "verb", ["gives", "puts it at", "makes", "yields", "results in", "leads to"]
)
def test_a_result_is_no_remark(verb):
    assert by_medcalc(f"They weigh 9 kg.\nThis {verb} 7 kg.") == 7


@pytest.mark.parametrize(
    "unit", ["/1.73 m\u00b2", "/1.73m2", "/ 1.73 m^2", " per 1.73 m\u00b2", "/1.73 m"]
)
def test_the_body_surface_in_a_unit_is_no_number(unit):
    assert by_medcalc(f"They had 3 of them, and a rate of 7 mL/min{unit}.") == 7
    assert by_gsm8k(f"They had 3 of them, and a rate of 7 mL/min{unit}.") == 7


def test_a_list_mark_is_no_number_and_the_last_number_is_that_of_gsm8k_and_numeric():
    output = "1. History: 1 point\n2. ECG: 2 points\nTotal: 1 (History) + 2 (ECG) + 1 (Age) = 4."
    assert by_gsm8k(output) == by_numeric(output) == 4
    assert by_gsm8k("It weighs 9.671kg") == 9.671
    assert by_gsm8k("Of 3:\n4. \nDone.") == 4
    assert by_gsm8k("It is 7.\nStep 10: done") == 7
    assert by_gsm8k("about 20-30 of them, so 5") == 5
    assert by_gsm8k("1. There are 4 + 5 = 9.\n2. None is left over.") == 9


@pytest.mark.parametrize("read", [by_gsm8k, by_numeric])
@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("The chance is 1/2.", 0.5),
        ("There are 8 of them, so it takes 3 / 4 of an hour", 0.75),
        ("It falls by -12/9", -12 / 9),
        ("The 2 mixtures cost the same, with 1/5 or with 1/3 pound of nuts.", 1 / 3),
        ("It is 5/0", None),
        ("It is 15 / $3 = 5 days", 5),
    ],
)
def test_a_fraction_is_one_number_where_nothing_is_stated(read, output, value):
    assert read(output) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("read", [by_medcalc, by_gsm8k, by_numeric])
@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("7. So 3 are left. #### 18 ", 18),
        ("So 3 are left.\n####18\n", 18),
        ("So 3 are left.\n#### **#### 18**", 18),
        ("So 3 are left.\n#### 18####", 18),
        ("So 3 are left.\n#### <1,800>", 1800),
        ("So $16,200 * 0.01 = $162. #### 162.", 162),
        ("2 of 4 wear one. #### 1/2", 0.5),
        ("It is 3 of 20. #### 15\\%", 15),
        # It does not become another number of the text where it is none.
        ("7. It is 5 hours later. #### 12:00", None),
        ("7. It never pays off. #### infinite", None),
        ("7. There are 5 more. #### 62 + 3x", None),
        ("7. That is 2/3 of 1. #### 0.6666...", None),
    ],
)
def test_what_stands_behind_the_hashes_at_the_end_is_the_answer(read, output, value):
    assert read(output) == value


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("It sold 3 million.", 3e6),
        ("That is \u20ac1.5bn", 1.5e9),
        ("They weigh 1.5 thousand tons", 1500),
        ("12 345", 12345),
        ("The total is 12 345.", 12345),
        ("In 2020 345 came", 345),
        ("minus 5", -5),
        ("The sum is negative 5.", -5),
        ("10 minus 5 is 5", 5),
        ("5 \u00b1 1 kg", 5),
        ("$5 \\pm 1$", 5),
        ("5 +/- 1", 5),
        ("It's 6, not 5", 6),
        ("4 or 5", None),
        ("either 4 kg or 5 kg", None),
        ("between 3 and 5", None),
        ("at least 5", None),
        ("From 3 to 5", 5),
        ("3:2", None),
        ("(1, 2)", None),
        ("(1,234)", 1234),
        ("\u221a16", 4),
        ("$\\sqrt{2}/2$", 0.7071067811865476),
        ("The area is 2\u221a3.", None),
        ("It is 5 [2].", 5),
        ("[5]", 5),
        ('{"result": 5, "confidence": 0.9}', 5),
        ("#5", 5),
        ("Rs 12,34,567", 1234567),
    ],
)
def test_without_a_statement_the_last_complete_number_counts(output, value):
    for read in (by_gsm8k, by_numeric):
        assert read(output) == (None if value is None else pytest.approx(value, rel=1e-5))


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ('{"final_answer": 42, "steps": 3}', 42),
        ('{"result": 5} No: {"result": 42}', 42),
        ('{"total": 42, "n": 3}', 42),
        ("Answer: 6 \\cdot 7", 42),
        ("Answer: 3*pi", 9.42477796076938),
        ("It is 10^3 in all.", 1000),
        ("The result was minus 42.", -42),
        ("Answer: 123.456.789", 123456789),
        ("Answer: 105/1.25 kg", 84),
        ("At least 5 came before, in all 42.", 42),
        ("Answer: 1 234 567", 1234567),
        ('{"finalAnswer": "42", "steps": 3}', 42),
        ("final_answer = 42  # of 3", 42),
        ("Answer: -\u00a342", -42),
        ("Answer: -USD 42", -42),
        ("Answer: \u279642", -42),
        ("Answer: 4\u200b2", 42),
        ("Answer: 4\u00ad2", 42),
        ("Answer: \u200e\u221242", -42),
        ("\u0664\u0662\u066b\u0665", 42.5),
        ("\u06f4\u066c\u06f2\u06f0\u06f0 \u0631\u06cc\u0627\u0644", 4200),
        ("\u4e00\u5171\u670942\u4e2a", 42),
        ("\u7d50\u679c\u306f-42\u3067\u3059", -42),
        ("\ucd1d 42\uac1c", 42),
        ("4.2\u4ebf", 4.2e8),
        ("Answer: either 42 or 43", None),
        ("Answer: 42 apples or 43 apples", None),
        ("Answer: 42 kg or 93 lb", 42),
        ("Answer: 42 vs 43", None),
        ("Answer: x = 42 or x = 43", None),
        ("Answer: x=42, y=43", None),
        ("Answer: a = 2, b = 3, a + b = 5", 5),
        ("Answer: cannot be determined from 3 facts", None),
        ("Answer: 41 42", None),
        ("Answer: 1 042", 1042),
        ("Answer: -2 3/4", -2.75),
        ("Answer: 2 1/2 weeks", 2.5),
        ("Answer: $2\\frac{1}{2}$ weeks", 2.5),
        ("\\boxed{-2\\frac{3}{4}}", -2.75),
        ("\\boxed{2\\frac{3}{3}}", 2),  # a product: no mixed number has a whole part there
        ("Answer: 1.2345 thousand", 1234.5),
        ("Answer: 5-5", 0),
        ("\\boxed{-2^2}", -4),
        ("\\boxed{2^{-3}}", 0.125),
        ("Answer: 2^3^2", 512),
        ("\\boxed{\\log_2 8}", None),
        ("\\boxed{3\\ln 2}", None),
        ("\\boxed{5!}", None),
        ("The answer is 5!", 5),
        ("\\boxed{\\binom{5}{2}}", None),
        ("\\boxed{2\\sqrt[3]{8}}", None),
        ("\\boxed{101_{2}}", None),
        ("\\boxed{3x+4}", None),
        ("\\boxed{2x}", None),
        ("\\boxed{\\{1,2\\}}", None),
        ("\\boxed{0.\\overline{3}}", None),
        ("\\boxed{4~200}", 4200),
        ("Answer: 1h30", None),
        ("The total is <b>42</b>.", 42),
        ("<tr><td>Total</td><td>4</td><td>42</td></tr>", 42),
        ("<p>Answer:</p><p>42</p><p>7 is wrong</p>", 42),
        ("Answer: <strong>42</strong>", 42),
        ('Answer: <span class="x">-42</span> kg', -42),
        ("Answer: 4.2 x 10<sup>1</sup>", 42),
        ("Answer: 101<sub>2</sub>", None),
        ("It is <42", None),
        ("It costs US$42.", 42),
        ("**42**\n\n### Explanation\nThere are 6 groups of 7.", 42),
        ("-42%\n\nBecause it falls by 6 * 7.", -42),
        ("6\n\n42 of them", 42),
        ("6\nmore make 42", 42),
        ("6 groups\n\nAll in all 42", 42),
    ],
)
def test_other_notations_and_languages_are_read(said, value):
    for read in (by_gsm8k, by_numeric):
        assert read(said) == value


def test_numbers_with_words_and_signs_are_compared_by_value():
    for output, answer in (("3 million", "3 billion"), ("200", "1 200"), ("minus 5", "5")):
        assert not Numeric()(output, {"answer": answer}).correct
        assert not Numeric()(answer, {"answer": output}).correct
        assert Numeric()(output, {"answer": output}).correct


def test_four_of_five_is_four_where_a_score_is_asked_for():
    assert by_medcalc("Answer: 4/5", "integer") == 4
    assert by_medcalc("Answer: 7/2", "integer") == 7
    for said in ("GCS 12/15", "Answer: GCS 12/15 (E3V4M5)", "Answer: CURB-65 score of 12 / 15"):
        assert by_medcalc(said, "integer") == 12
        assert by_medcalc(said) == 0.8
    assert by_medcalc("Answer: 4/5") == 0.8


@pytest.mark.parametrize(
    ("output", "is_right"),
    [
        ("Answer: 2350%", True), ("Answer: 2350 %", True), ("Answer: 2350\\%", True),
        ("Answer: 2350 percent", True), ("The value is 2350% (CI 90 to 95)", True),
        ("Answer: 2350 (CI 95%)", False), ("Answer: 2350, or 5% more than usual", False),
        ("5% more than before.\nAnswer: 2350", False), ("Answer: 2350", False),
    ],
)  # fmt: skip
def test_a_percent_sign_counts_only_at_the_number(output, is_right):
    truth = {"form": "decimal", "answer": "23.5", "lower": "22.3", "upper": "24.7"}
    assert medcalc(output, truth).correct == is_right


@pytest.mark.parametrize(
    "form",
    [
        "10/22/2021", "10-22-2021", "2021-10-22", "2021/10/22", "October 22, 2021", "22-Oct-2021",
        "Oct. 22nd, 2021", "22 October 2021", "22nd of October, 2021", "october 22 2021",
        "Friday, October 22, 2021", "**10/22/2021**", "2021-10-22T00:00", "October 22,2021",
        "22OCT2021", "01/15/2021+280 days = 10/22/2021",
        "10/22/2021 (conception about 01/29/2021)", "01/15/2021 + 280 days = 10/22/2021",
        "The due date for 01/15/2021 is 10/22/2021", "10/22/2021, not 10/23/2021",
        "October 22, 2021, or 10/22/2021", "10/22/2021, 40 weeks after 01/15/2021.",
        "October 22, 2021\n(LMP: 01/15/2021)", "10/22/2021 (period was on 01/15/2021)",
    ],
)  # fmt: skip
def test_dates_as_models_write_them(form):
    truth = {"form": "date", "answer": "10/22/2021", "lower": "", "upper": ""}
    for way in ("Answer: {}", '{{"answer": "{}"}}', "The final answer: {}.\nNot 10/23/2021."):
        assert medcalc(way.format(form), truth).correct, way
    assert medcalc("The answer is Friday, October 22, 2021. Not 10/23/2021.", truth).correct
    assert medcalc("10/23/2021 was ruled out.\nDue: 10/22/2021", truth).parsed == "10/22/2021"
    assert medcalc(f"Seen on 01/02/2003.\nDue on {form}", truth).correct == (
        not form.endswith("01/29/2021)")
    )


@pytest.mark.parametrize(
    ("form", "truth"),
    [
        ("date", "10/22/2021 {} 10/23/2021"),
        ("weeks_days", "17 weeks 6 days {} 18 weeks 0 days"),
    ],
)
def test_two_offered_dates_are_no_answer(form, truth):
    said, another = (part.strip() for part in truth.split("{}"))
    for both in ("or", "to", "until", "through"):
        for offered in (truth.format(both), f'"{said}" {both} "{another}"'):
            given = {"form": form, "answer": said, "lower": "", "upper": ""}
            assert not medcalc(f"Answer: {offered}", given).correct
            assert not medcalc(f"It is {offered}", given).correct
    given = {"form": form, "answer": said, "lower": "", "upper": ""}
    assert not medcalc(f"Answer: not {said}", given).correct
    assert medcalc(f"Answer: not {another} but {said}", given).correct


@pytest.mark.parametrize(
    "text",
    [
        "22/10/2021", "22.10.2021", "10/22/21", "02/30/2021", "May 2021", "10/22/20211",
        "110/22/2021", "1/10/22/2021", "1-10-22-2021", "12021-10-22", "2021-10-221",
        "1-2021-10-22", "1/2021/10/22", "122 October 2021", "October 22, 20211",
        "Dismay 1, 2021", "Mayor 1, 2021", "1 Mayor 2021",
    ],
)  # fmt: skip
def test_texts_that_are_no_date(text):
    assert read_date(text) is None


def test_every_month_is_read_in_full_and_short():
    for month in range(1, 13):
        day = date(2021, month, 9)
        name = f"{day:%b}"
        for form in (f"{day:%B} 9, 2021", f"{name} 9, 2021", f"9 {name}. 2021", f"{name}-9-2021"):
            assert read_date(form) == day
        assert read_date(f"{name}.9,2021") == read_date(f"9{name} 2021") == day
        assert read_date(f"9 {name}.,2021") == read_date(f"9-{name}-2021") == day
    assert read_date("Sept. 9, 2021") == date(2021, 9, 9)


@pytest.mark.parametrize("form", ["1st", "2nd", "3rd", "4th"])
def test_every_ordinal_is_read(form):
    assert (
        read_date(f"May {form}, 2021")
        == read_date(f"{form} May 2021")
        == date(2021, 5, int(form[0]))
    )


@pytest.mark.parametrize(
    "lead", ["", "about ", "on ", "approximately ", "= ", "~", "\u2248 ", '("']
)
def test_the_day_that_leads_a_statement_is_the_answer(lead):
    assert read_date(f"{lead}10/22/2021 and the visit is 10/29/2021") == date(2021, 10, 22)


@pytest.mark.parametrize(
    "mark", ["=", "\u2248", "\u2192", ":", "is", "was", "will be", "on", "equals"]
)
def test_the_day_behind_a_mark_is_the_answer(mark):
    assert read_date(f"01/15/2021 + 280 days {mark} 10/22/2021 (01/29/2021)") == date(2021, 10, 22)


@pytest.mark.parametrize(
    "before", ["after ", "since ", "from ", "before ", "LMP ", "LMP: ", "LMP = ", "period was on ",
               "period (LMP) of ", "period is ", 'from "', "since (", "after ["],
)  # fmt: skip
def test_a_day_from_which_another_is_counted_is_not_the_answer(before):
    text = f"It falls on 10/22/2021, which is 40 weeks {before}01/15/2021"
    assert read_date(text, stated=False) == date(2021, 10, 22)
    assert read_date(f"{before}01/15/2021", stated=False) == date(2021, 1, 15)


@pytest.mark.parametrize(
    ("form", "both"),
    [
        ("17+6 weeks", (17, 6)), ("17\\text{ weeks and }6\\text{ days}", (17, 6)),
        ("17w6d", (17, 6)), ("17 6/7 weeks", (17, 6)), ("17 weeks + 6 days", (17, 6)),
        ("17 weeks, remainder 6 days", (17, 6)), ("17 weeks, plus 6 days", (17, 6)),
        ("17 completed weeks and 6 days", (17, 6)), ("17 full weeks", (17, 0)),
        ("17-weeks, 6-days", (17, 6)), ("17 + 6/7 weeks", (17, 6)),
        ("less than 17 weeks 6 days", None), ("at least 17 weeks", None),
        ("17+6", (17, 6)), ("17⁺⁶ weeks", (17, 6)), ("$17^{+6}$ weeks", (17, 6)),
        ("17 weeks with a remainder of 6 days", (17, 6)),
        ("17 weeks (6 days)", (17, 6)), ("17 weeks (119 days)", (17, 0)),
        ("4 weeks (28 days)", (4, 0)), ("17weeks", (17, 0)), ("1 week", (1, 0)), ("8+4", (8, 4)),
        ('{"weeks": 17, "days": 6}', (17, 6)), ("Weeks: 17, Days: 6", (17, 6)),
        ("Weeks:17, Days:6", (17, 6)), ("Biweeks: 1, days: 6", None),
        ("17 wks, 6 d", (17, 6)), ("17 week, 6 day", (17, 6)), ("17 wk 6 days", (17, 6)),
        ('"17 weeks" and "6 days"', (17, 6)), ("17 weeks with 6-days", (17, 6)),
        ("17 weeks 6 duly", (17, 0)), ("117 weeks 6 days", None), ("3.5+2 weeks", None),
        ("1+5+2 weeks", None), ("117+6 weeks", None), ("17+6-week", (17, 6)), ("17+6wks", (17, 6)),
        ("17+6w", (17, 6)), ("17-6/7 wk", (17, 6)), ("17 +6 weekly", None), ("17 +6", (17, 6)),
        ("[17,6]", (17, 6)), ("( 17, 6)", (17, 6)), ("(17, 12)", (17, 12)),
        ("17 weeks and 6 days (125 days)", (17, 6)), ("(17, 6)", (17, 6)), ("17 weeks", (17, 0)),
        ("16 weeks 5 days + 8 days = 17 weeks 6 days", (17, 6)), ("17.5 weeks", None),
        ("17 days", None), ("17", None), ("$17\\tfrac{6}{7}$ weeks", (17, 6)),
        ("17 \\frac67\\text{ weeks}", (17, 6)), ("17 6\u20447 weeks", (17, 6)),
        ("17\u2076\u2044\u2087 weeks", (17, 6)), ("5 8\u20447 weeks", None),
    ],
)  # fmt: skip
def test_weeks_and_days_as_models_write_them(form, both):
    assert read_weeks_days(stated_answer(f"Answer: {form}\nOr 3 weeks, 1 day.")) == both


def test_numbers_in_prose_are_those_that_stand_alone():
    text = "CURB-65 and m² and 1st of 3, COVID-19, v1.2.3, 10:30, 5-10 mg, > 4, 2021-10-22, 8 kg"
    assert find_numbers(normalise(text)) == [3, 8]
    text = "a 5x7 print, 2 years 3 months, seen on 5/7/2021 and 2021/5/7, 0.4\\dot{2}, but May 2021"
    assert find_numbers(normalise(text)) == [2021]


def test_a_reference_is_read_by_the_same_rules():
    for answer in ("1200", "#### 1,200", 1200, "1.2e3", "1200 kg", "Answer: 1200"):
        assert Numeric()("so it is 1,200 apples", {"answer": answer}).correct
    assert final_number("no number") is None
