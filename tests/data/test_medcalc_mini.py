"""The generated problems: right answers, separate splits, the same everywhere."""

import re

import pytest

from talr_cli.data.medcalc_mini import MedCalcMini
from talr_cli.data.medcalc_mini_calculators import CALCULATORS

SIZES = {"train_rows": 360, "validation_rows": 54, "test_rows": 180}


@pytest.fixture(scope="module")
def splits():
    return MedCalcMini(**SIZES).load()


def note_of(example):
    return example.messages[0]["content"].partition("\nQuestion:")[0]


def first(pattern, text):
    return float(re.search(pattern, text)[1])


# Each formula a second time, from the note alone, as its source gives it.
SECOND = {
    "Body Mass Index": lambda n: (
        first(r"Weight is (\d+)", n) / first(r"Height is ([\d.]+) m", n) ** 2
    ),
    "Mean Arterial Pressure": lambda n: (
        first(r"/(\d+)", n) + (first(r"pressure is (\d+)", n) - first(r"/(\d+)", n)) / 3
    ),
    "Anion Gap": lambda n: (
        first(r"Sodium is (\d+)", n)
        - first(r"Chloride is (\d+)", n)
        - first(r"Bicarbonate is (\d+)", n)
    ),
    "Corrected Calcium": lambda n: (
        first(r"Calcium is ([\d.]+) ", n) + 0.8 * (4 - first(r"Albumin is ([\d.]+) ", n))
    ),
    "Creatinine Clearance": lambda n: (
        (140 - first(r"man of (\d+)", n))
        * first(r"Weight is (\d+)", n)
        / (72 * first(r"Creatinine is ([\d.]+) ", n))
    ),
    "Corrected QT": lambda n: first(r"QT is (\d+)", n) + 1.75 * (first(r"rate is (\d+)", n) - 60),
    "Serum Osmolality": lambda n: (
        2 * first(r"Sodium is (\d+)", n)
        + first(r"Glucose is (\d+)", n) / 18
        + first(r"nitrogen is (\d+)", n) / 2.8
    ),
    "LDL Cholesterol": lambda n: (
        first(r"Cholesterol is (\d+)", n)
        - first(r"HDL is (\d+)", n)
        - first(r"Triglycerides are (\d+)", n) / 5
    ),
    "Expected Carbon Dioxide": lambda n: 1.5 * first(r"Bicarbonate is (\d+)", n) + 8,
    # 4 mL for each of the first 10 kg, 2 for the next 10, 1 for the rest.
    "Maintenance Fluid": lambda n: 4 * 10 + 2 * 10 + (first(r"Weight is (\d+)", n) - 20),
    "Ideal Body Weight": lambda n: (
        (45.5 if "woman" in n else 50) + 2.3 * (first(r"Height is (\d+)", n) - 60)
    ),
    "Corrected Sodium": lambda n: (
        first(r"Sodium is (\d+)", n) + 1.6 * (first(r"Glucose is (\d+)", n) - 100) / 100
    ),
    "Glasgow Coma Scale": lambda n: sum(
        first(rf"{part} response is (\d)", n) for part in ("Eye", "Verbal", "Motor")
    ),
    "CURB-65": lambda n: (
        ("confused" in n)
        + at_least(n, r"Urea is (\d+)", 20)
        + at_least(n, r"Breathing rate is (\d+)", 30)
        + below(n, r"Systolic pressure is (\d+)", 90)
    ),
    "CHA2DS2-VASc": lambda n: (
        ("is heart failure" in n)
        + ("is hypertension" in n)
        + ("is diabetes" in n)
        + 2 * ("was a stroke" in n)
        + ("woman" in n)
    ),
    "Centor": lambda n: (
        ("is fever" in n) + ("no cough" in n) + ("are swollen nodes" in n) + ("is pus" in n)
    ),
    "qSOFA": lambda n: (
        ("confused" in n)
        + at_least(n, r"Breathing rate is (\d+)", 22)
        + below(n, r"Systolic pressure is (\d+)", 101)
    ),
    "HAS-BLED": lambda n: (
        ("on dialysis" in n)
        + ("was a stroke" in n)
        + ("major bleeding" in n)
        + ("heavy use" in n)
        + ("takes aspirin" in n)
    ),
}


def at_least(note, pattern, limit):
    found = re.search(pattern, note)
    return found is not None and float(found[1]) >= limit


def below(note, pattern, limit):
    found = re.search(pattern, note)
    return found is not None and float(found[1]) < limit


def test_there_are_equations_and_scores(splits):
    forms = {example.group: example.reference["form"] for example in splits.train}
    assert len(forms) == len(CALCULATORS) >= 12
    assert sum(form == "integer" for form in forms.values()) >= 3


def test_answers_agree_with_the_formulas_read_from_the_note(splits):
    for example in (*splits.train, *splits.validation, *splits.test):
        expected = SECOND[example.group](note_of(example))
        assert float(example.reference["answer"]) == pytest.approx(expected, abs=0.0501), example


def test_published_examples():
    """Worked values from the sources and their usual teaching examples."""
    assert SECOND["Mean Arterial Pressure"]("Blood pressure is 120/80.") == pytest.approx(
        93.33, abs=0.01
    )
    assert SECOND["Corrected Calcium"]("Calcium is 8 mg. Albumin is 2 g.") == pytest.approx(9.6)
    assert SECOND["Expected Carbon Dioxide"]("Bicarbonate is 12.") == 26
    assert SECOND["Ideal Body Weight"]("man. Height is 70 inches") == pytest.approx(73.0)


def test_every_explanation_is_right_by_the_benchmarks_rule(splits):
    for example in (*splits.train, *splits.test):
        assert splits.scorer(example.completion, example.reference).correct
        truth = float(example.reference["answer"])
        wrong = f"Answer: {truth * 1.06 + 1}"
        assert not splits.scorer(wrong, example.reference).correct


def test_every_step_of_the_working_holds(splits):
    """Along `a = b = c` every side that is arithmetic has the value of the next."""
    for example in splits.train:
        line = example.completion.partition("\n")[0]
        sides = [side.strip().rstrip(".") for side in line.split(" = ")]
        values = [eval(side) for side in sides if re.fullmatch(r"[\d\s.+*/()-]+", side)]
        assert len(values) >= 2
        for value in values:
            assert value == pytest.approx(values[-1], abs=0.06)


def test_no_problem_is_in_two_splits(splits):
    seen = [
        {(example.group, *sorted(note_of(example).split(". "))) for example in rows}
        for rows in (splits.train, splits.validation, splits.test)
    ]
    assert [len(rows) for rows in seen] == list(SIZES.values())
    assert not (seen[0] & seen[1])
    assert not (seen[0] & seen[2])
    assert not (seen[1] & seen[2])


def test_more_training_rows_change_no_test_row():
    few, many = (MedCalcMini(train_rows=n, test_rows=36).load() for n in (18, 720))
    assert few.test == many.test
    assert few.train == many.train[:18]


def test_the_calculators_take_turns():
    rows = MedCalcMini(train_rows=2 * len(CALCULATORS)).load().train
    assert [row.group for row in rows] == 2 * [calculator.name for calculator in CALCULATORS]


def test_label_targets_hold_the_answer_alone():
    for example in MedCalcMini(target="label").load().train:
        assert re.fullmatch(r"Answer: -?[\d.]+", example.completion)


def test_every_formula_names_its_source():
    for calculator in CALCULATORS:
        assert re.search(r"[A-Z].+ (19|20)\d\d", calculator.source), calculator.name
